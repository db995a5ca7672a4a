"""Caption metrics, against values worked out by hand."""

import math
import shutil
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.captions import VARIANTS, score_captions
from vlm.data.words import tokenize
from vlm.errors import VLMError


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog's ball, isn't IT?", "a dog 's ball is n't it"),
        ("Two T-shirts - 3.5 m & 1,000 “cats”…", "two t-shirts 3.5 m & 1,000 cats"),
        ("the dog 's bone", "the dog 's bone"),
        ("a (very) big dog", "a -lrb- very -rrb- big dog"),
        ("U.S. flag at 10:30", "u.s. flag at 10:30"),
        ("can't cannot", "ca n't can not"),
        (" . ", ""),
    ],
)
def test_tokens_are_those_of_the_coco_evaluation(caption: str, words: str) -> None:
    assert tokenize(caption) == words


@given(st.text())
def test_tokens_are_words_joined_by_single_spaces(caption: str) -> None:
    assert tokenize(caption) == " ".join(tokenize(caption).split())


def figures(references: list[list[str]], predictions: list[str]) -> dict[str, float]:
    """Every metric by its name, not in percent."""
    scores = score_captions(references, predictions)
    shares = {name: value / 100 for name, value in scores.more.items()}
    return shares if scores.overall is None else {**shares, "cider": scores.overall / 100}


def test_a_perfect_caption_has_the_highest_scores() -> None:
    captions = ["a brown dog runs on green grass", "two white boats lie in the harbour"]
    scores = figures([[caption] for caption in captions], captions)
    assert scores == pytest.approx(
        {"bleu_1": 1, "bleu_2": 1, "bleu_3": 1, "bleu_4": 1, "rouge_l": 1, "cider": 10}, abs=1e-6
    )


def test_bleu_and_rouge_by_hand() -> None:
    # Clipping (Papineni et al. 2002): "the" counts twice, of "the cat" there is one.
    scores = figures([["The cat is on the mat."]], ["the the the cat"])
    brevity = math.exp(1 - 6 / 4)
    assert scores["bleu_1"] == pytest.approx(brevity * 3 / 4, abs=1e-6)
    assert scores["bleu_2"] == pytest.approx(brevity * math.sqrt(3 / 4 * 1 / 3), abs=1e-6)
    precision, recall, beta = 2 / 4, 2 / 6, 1.2
    f_score = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert scores["rouge_l"] == pytest.approx(f_score)


def test_bleu_takes_the_closest_reference_length_and_sums_over_the_corpus() -> None:
    references = [["a cat", "a cat sits on the mat today"], ["a dog barks"]]
    scores = figures(references, ["a cat sits", "no dog"])
    # Lengths 3 and 2 against the closest, 2 and 3; 3 + 1 of 5 words are right.
    assert scores["bleu_1"] == pytest.approx(4 / 5, abs=1e-6)


def test_cider_by_hand() -> None:
    # Of three photos; "red bus" shares one of its two words, of idf log 3, with "blue bus".
    scores = figures([["blue bus"], ["tall tree"], ["small boat"]], ["red bus", "x", "y"])
    cosine = 1 / 2
    assert scores["cider"] == pytest.approx(10 * cosine / 4 / 3)


@pytest.mark.parametrize("photos", [1, 3])
def test_without_different_captions_there_is_no_cider(photos: int) -> None:
    scores = score_captions([["a red bus", "a bus"]] * photos, ["a red bus"] * photos)
    shown = scores.to_json()
    assert (shown["overall"], shown["interval_95"], shown["bleu_1"]) == (None, None, 100)
    assert shown["note"] == (
        "CIDEr-D needs photos with different captions: the idf of a single document is 0"
    )


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    score_captions([["a cat"]], ["a cat"])
    assert capsys.readouterr() == ("", "")


def test_pycocoevalcap_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(VLMError, match=r"pip install 'vlm\[eval\]'"):
        score_captions([["a"]], ["a"])


def test_cider_comes_first_with_its_interval() -> None:
    references = [["a cat sits"], ["two dogs run"], ["a bus"]]
    scores = score_captions(references, ["a cat sits", "two cats run", "a tree"])
    assert scores.metric == f"CIDEr-D, {VARIANTS['python']}"
    assert 100 * sum(scores.each) / 3 == pytest.approx(scores.overall)
    low, high = scores.interval
    assert low <= scores.overall <= high


def test_the_ptb_tokenizer_needs_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(VLMError, match="the ptb tokenizer and METEOR need Java"):
        score_captions([["a"]], ["a"], "ptb")


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_with_java_the_ptb_tokenizer_and_meteor() -> None:
    references = [["A dog isn't on the grass .", "the man's dog"], ["Two men play football ."]]
    predictions = ["A dog isn't on the grass.", "Two men play."]
    ours, theirs = (score_captions(references, predictions, kind) for kind in ("python", "ptb"))
    assert theirs.overall == ours.overall
    assert theirs.metric == f"CIDEr-D, {VARIANTS['ptb']}"
    assert theirs.more.keys() - ours.more.keys() == {"meteor"}
    assert {**ours.more, "meteor": theirs.more["meteor"]} == theirs.more
    assert 50 < theirs.more["meteor"] < 100

"""Caption metrics, against values worked out by hand, and the evaluation around them."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.captions import evaluate_captions, main
from eval.metrics.captions import VARIANT, score_captions, tokenize
from vlm.captions import CaptionedImage
from vlm.errors import DataError, VLMError


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


def test_a_perfect_caption_has_the_highest_scores() -> None:
    captions = ["a brown dog runs on green grass", "two white boats lie in the harbour"]
    scores = score_captions([[caption] for caption in captions], captions)
    assert scores == pytest.approx(
        {"bleu_1": 1, "bleu_2": 1, "bleu_3": 1, "bleu_4": 1, "rouge_l": 1, "cider": 10}, abs=1e-6
    )


def test_bleu_and_rouge_by_hand() -> None:
    # Clipping (Papineni et al. 2002): "the" counts twice, of "the cat" there is one.
    scores = score_captions([["The cat is on the mat."]], ["the the the cat"])
    brevity = math.exp(1 - 6 / 4)
    assert scores["bleu_1"] == pytest.approx(brevity * 3 / 4, abs=1e-6)
    assert scores["bleu_2"] == pytest.approx(brevity * math.sqrt(3 / 4 * 1 / 3), abs=1e-6)
    precision, recall, beta = 2 / 4, 2 / 6, 1.2
    f_score = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert scores["rouge_l"] == pytest.approx(f_score)
    assert scores["cider"] == 0


def test_bleu_takes_the_closest_reference_length_and_sums_over_the_corpus() -> None:
    references = [["a cat", "a cat sits on the mat today"], ["a dog barks"]]
    scores = score_captions(references, ["a cat sits", "no dog"])
    # Lengths 3 and 2 against the closest, 2 and 3; 3 + 1 of 5 words are right.
    assert scores["bleu_1"] == pytest.approx(4 / 5, abs=1e-6)


def test_cider_by_hand() -> None:
    # Of three photos; "red bus" shares one of its two words, of idf log 3, with "blue bus".
    scores = score_captions([["blue bus"], ["tall tree"], ["small boat"]], ["red bus", "x", "y"])
    cosine = 1 / 2
    assert scores["cider"] == pytest.approx(10 * cosine / 4 / 3)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    score_captions([["a cat"]], ["a cat"])
    assert capsys.readouterr() == ("", "")


def test_what_cannot_be_scored_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no captions to score"):
        score_captions([], [])
    with pytest.raises(DataError, match="1 predictions for 2 photos' references"):
        score_captions([["a"], ["b"]], ["a"])
    with pytest.raises(DataError, match="1 photos without references, the first is 1"):
        score_captions([["a"], []], ["a", "b"])
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(VLMError, match=r"pip install 'vlm\[eval\]'"):
        score_captions([["a"]], ["a"])


class Parrot:
    """Answers with the file name, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[tuple[Path, str]], dict[str, Any]]] = []

    def batch(self, pairs: list[tuple[Path, str]], **generation: Any) -> list[str]:
        self.asked.append((pairs, generation))
        return [path.stem for path, _ in pairs]


def test_every_photo_is_captioned_once_and_in_order(tmp_path: Path) -> None:
    items = [CaptionedImage(Path(f"a {name}.jpg"), [f"a {name}"]) for name in ("cat", "dog", "bus")]
    model = Parrot()
    report = evaluate_captions(
        model, items, "Describe.", batch_size=2, output=tmp_path / "out", beams=3
    )
    assert [generation["beams"] for _, generation in model.asked] == [3, 3]
    assert [[path.stem for path, _ in pairs] for pairs, _ in model.asked] == [
        ["a cat", "a dog"],
        ["a bus"],
    ]
    assert model.asked[0][0][0][1] == "Describe."
    assert (report.photos, report.question, report.beams) == (3, "Describe.", 3)
    assert report.variant == VARIANT
    assert report.metrics["bleu_1"] == pytest.approx(1)
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert json.loads(lines[2]) == {
        "image": "a bus.jpg",
        "prediction": "a bus",
        "references": ["a bus"],
    }


def test_a_batch_and_a_limit_are_at_least_one(tmp_path: Path) -> None:
    items = [CaptionedImage(Path("a.jpg"), ["a cat"])]
    with pytest.raises(DataError, match="batch_size must be at least 1, not 0"):
        evaluate_captions(Parrot(), items, "Describe.", batch_size=0)
    (tmp_path / "a.jpg").touch()
    record = {"image": "a.jpg", "captions": ["a cat"], "split": "test"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataError, match="limit must be at least 1, not 0"):
        main(tmp_path, limit=0)

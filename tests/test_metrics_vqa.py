"""VQA accuracy: cases worked out by hand, its quirks, and what the two variants disagree on."""

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.benchmarks import BENCHMARKS
from eval.benchmarks.vqa_v2 import VQA_V2
from eval.metrics.vqa import (
    CONTRACTIONS,
    normalise,
    normalise_textvqa,
    vqa_accuracy,
)
from eval.question import Question


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("the cat", "cat"),
        ("A dog and the cat", "dog and cat"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("None", "0"),
        ("1,000 people", "1000 people"),
        ("red,white", "red white"),
        ("red, white", "red white"),
        ("black/white", "black white"),
        ("t-shirt", "t shirt"),
        ("t - shirt", "t shirt"),
        # One mark beside a space takes all marks of its kind with it, and their spaces.
        ("a-b - c", "ab c"),
        # A comma between digits does so for every mark.
        ("1,000 t-shirts", "1000 tshirts"),
        ("dont", "don't"),
        ("Im here", "im here"),
        ("somebody'd", "somebodyd"),
        ("shouldntve", "shouldntve"),
        ("shouldnt've", "shouldn't've"),
        ("3.5", "3.5"),
        ("3. 5.", "3 5"),
        ("." * 40, "." * 8),
        ("line\nbreak\ttab ", "line break tab"),
        ("naïve café", "naïve café"),
        ("", ""),
    ],
)
def test_the_official_normal_form(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("text", "official", "textvqa"),
    [("red,white", "red white", "redwhite"), ("the cat's", "cat's", "cat 's")],
)
def test_what_the_variants_normalise_differently(text: str, official: str, textvqa: str) -> None:
    assert (normalise(text), normalise_textvqa(text)) == (official, textvqa)


def test_answers_that_all_agree_are_normalised_by_one_variant_only() -> None:
    assert vqa_accuracy("Yes.", ["yes"] * 10) == 0
    assert vqa_accuracy("yes", ["yes"] * 10) == 1
    assert vqa_accuracy(" yes\n", ["yes"] * 10) == 1
    assert vqa_accuracy("Yes.", ["yes"] * 9 + ["Yes"]) == 1
    assert vqa_accuracy("Yes.", ["yes"] * 10, "textvqa") == 1


@pytest.mark.parametrize("name", ["vqav2", "okvqa", "vizwiz"])
def test_benchmarks_score_answers_as_llava_submits_them(name: str) -> None:
    unanimous = Question("", "", "", ("yes",) * 10)
    assert BENCHMARKS[name].each(unanimous, "Yes.") == 1
    assert BENCHMARKS[name].score([unanimous] * 2, ["Yes", "No"]).overall == 50
    # What people said stays as it is where they agree.
    assert BENCHMARKS[name].each(Question("", "", "", ("t-shirt",) * 10), "t-shirt") == 0


@pytest.mark.parametrize(
    ("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)]
)
def test_how_many_of_ten_gave_the_answer(matches: int, expected: float) -> None:
    answers = ["cat"] * matches + [f"dog {number}" for number in range(10 - matches)]
    assert vqa_accuracy("cat", answers) == pytest.approx(expected)


words = st.sampled_from(["cat", "The cat", "dog", "2", "two", "a"])


@given(prediction=words, answers=st.lists(words, min_size=10, max_size=10))
def test_it_is_the_mean_over_who_is_left_out(prediction: str, answers: list[str]) -> None:
    if len(set(answers)) == 1:
        return
    forms = [normalise(answer) for answer in answers]
    expected = fmean(
        min(1, nine.count(normalise(prediction)) / 3) for nine in map(list, combinations(forms, 9))
    )
    assert vqa_accuracy(prediction, answers) == pytest.approx(expected)


def test_contractions_are_recognised_without_one_apostrophe() -> None:
    assert CONTRACTIONS["couldn'tve"] == "couldn't've"
    assert CONTRACTIONS["twas"] == "'twas"
    assert "couldntve" not in CONTRACTIONS
    assert "its" not in CONTRACTIONS
    assert "well" not in CONTRACTIONS
    assert "shed" not in CONTRACTIONS


def test_scores_are_by_type_in_percent() -> None:
    questions = [
        Question("", "", "", tuple(answers), {"answer_type": kind, "question_type": begins})
        for answers, kind, begins in [
            (["yes"] * 9 + ["no"], "yes/no", "is the"),
            (["3"] * 10, "number", "how many"),
            (["red"] * 2 + ["blue"] * 8, "other", "what color"),
        ]
    ]
    scores = VQA_V2.score(questions, ["yes", "2", "red"]).to_json()
    assert scores["metric"] == "VQA accuracy, official, of answers through the EvalAI processor"
    assert scores["overall"] == 53.33
    assert scores["per_answer_type"] == {"number": 0, "other": 60, "yes/no": 100}
    assert scores["per_question_type"] == {"how many": 0, "is the": 100, "what color": 60}
    low, high = scores["interval_95"]
    assert 0 <= low < 53.33 < high <= 100

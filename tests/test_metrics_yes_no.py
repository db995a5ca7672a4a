"""POPE and MME: how answers are read, POPE's figures by hand, and what is undefined."""

import pytest

from eval.metrics.mme import answer_of
from eval.metrics.pope import says_yes, score
from eval.metrics.scores import Scores
from eval.question import Question


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Yes", True),
        ("No", False),
        ("no", False),
        # Neither of the three words.
        ("NO", True),
        ("none", True),
        ("", True),
        ("No, there is a cat", False),
        ("There is not.", False),
        ("Yes. No.", True),
        ("Yes there is no", False),
    ],
)
def test_how_an_answer_is_read(text: str, yes: bool) -> None:
    assert says_yes(text) == yes


def score_pope(splits: dict[str, tuple[list[str], list[bool]]]) -> Scores:
    """Of each split, the answers, and for each whether the object is there."""
    questions = [
        Question("", b"", "", ("yes" if yes else "no",), {"split": name})
        for name, (_, there) in splits.items()
        for yes in there
    ]
    return score(questions, [answer for answers, _ in splits.values() for answer in answers])


def test_figures_of_each_split_and_their_mean() -> None:
    scores = score_pope(
        {
            # 2 hits, 1 missed, 1 wrong, 1 rejected.
            "random": (["yes", "yes", "no", "yes", "no"], [True, True, True, False, False]),
            "popular": (["yes", "no"], [True, False]),
        }
    ).to_json()
    assert scores["per_split_f1"] == {"random": 66.67, "popular": 100}
    assert scores["per_split_accuracy"] == {"random": 60, "popular": 100}
    assert scores["per_split_precision"] == {"random": 66.67, "popular": 100}
    assert scores["per_split_recall"] == {"random": 66.67, "popular": 100}
    assert scores["per_split_yes_ratio"] == {"random": 60, "popular": 50}
    assert scores["overall"] == 83.33
    assert scores["accuracy"] == 80
    assert scores["questions"] == 7
    low, high = scores["interval_95"]
    assert low < 83.33 < high <= 100


def test_what_is_undefined_is_0_and_said_to_be() -> None:
    scores = score_pope({"random": (["no", "no"], [True, False])}).to_json()
    assert scores["overall"] == scores["precision"] == scores["recall"] == 0
    assert scores["accuracy"] == 50
    assert "0 where undefined" in scores["metric"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("YES.", "yes"),
        ("(no)", "no"),
        ('"No"', "no"),
        ("snow", "no"),
        ("nyes", "yes"),
        ("I say no", None),
        ("", None),
    ],
)
def test_mme_looks_at_four_characters(text: str, answer: str | None) -> None:
    assert answer_of(text) == answer

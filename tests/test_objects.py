"""The naming test: what counts as right."""

from pathlib import Path
from typing import Any

import pytest

from eval.objects import Miss, evaluate_objects
from vlm.captions import CaptionedImage
from vlm.errors import DataError


class Table:
    """Answers by photo and question."""

    def __init__(self, answers: dict[tuple[str, str], str]) -> None:
        self.answers = answers

    def batch(self, pairs: list[tuple[Path, str]], **generation: Any) -> list[str]:
        return [self.answers[path.name, question] for path, question in pairs]


def test_an_answer_that_names_the_thing_by_a_close_word_is_right() -> None:
    items = [
        CaptionedImage(Path("1.jpg"), ["a cat"]),
        CaptionedImage(Path("2.jpg"), ["a train"]),
        CaptionedImage(Path("3.jpg"), ["people at a party"]),
    ]
    model = Table(
        {
            ("1.jpg", "What?"): "A kitten.",
            ("2.jpg", "What?"): "A train station.",
            ("1.jpg", "Describe."): "Two cats on a sofa",
            ("2.jpg", "Describe."): "A red locomotive",
        }
    )
    report = evaluate_objects(model, items, ("What?", "Describe."), batch_size=1)
    assert report.accuracy == {"What?": 0.5, "Describe.": 1.0}
    assert (report.overall, report.either, report.photos) == (0.75, 1.0, 2)
    assert report.things == {"cat": 1, "train": 1}
    assert report.misses == [Miss("2.jpg", "train", "What?", "A train station.")]


def test_either_counts_a_photo_that_one_question_gets_right() -> None:
    items = [CaptionedImage(Path(f"{i}.jpg"), ["a cat"]) for i in range(3)]
    answers = {(f"{i}.jpg", question): "A cup." for i in range(3) for question in ("a", "b")}
    answers["0.jpg", "a"] = answers["1.jpg", "b"] = "A cat."
    report = evaluate_objects(Table(answers), items, ("a", "b"), batch_size=2)
    assert report.accuracy == pytest.approx({"a": 1 / 3, "b": 1 / 3})
    assert report.either == pytest.approx(2 / 3)


def test_no_question_and_no_main_thing_are_refused() -> None:
    items = [CaptionedImage(Path("1.jpg"), ["people at a party"])]
    with pytest.raises(DataError, match="no question to ask"):
        evaluate_objects(Table({}), items, (), batch_size=1)
    with pytest.raises(DataError, match="none of 1 photos has a main thing"):
        evaluate_objects(Table({}), items, ("What?",), batch_size=1)

"""The naming test: which things texts name, which is the main one, and what counts as right."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.objects import THINGS, Miss, evaluate_objects, main_thing, named_things
from vlm.captions import CaptionedImage
from vlm.errors import DataError


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("A kitten and two DOGS.", ["cat", "dog"]),
        ("a hot-dog", ["hot dog"]),
        ("a teddy bear on a bed", ["teddy bear", "bed"]),
        ("a red double-decker bus at a bus stop", ["bus"]),
        ("people wait at a train station", []),
        ("a toilet bowl and toilet paper", ["toilet"]),
        ("ponies, geese and knives", ["horse", "bird", "knife"]),
        ("an orange cat on a table", ["cat"]),
        ("a category of catfish", []),
        ("a man surfing", []),
        ("a computer mouse", ["mouse"]),
        ("a dirt bike", ["motorcycle"]),
        ("bottle, bottle, cup, bottle", ["bottle", "cup"]),
    ],
)
def test_named_things(text: str, things: list[str]) -> None:
    assert named_things(text) == things


def test_every_word_names_its_own_category_and_no_other() -> None:
    for thing, words in THINGS.items():
        for word in words:
            assert named_things(f"A {word}.") == [thing]


def test_there_are_77_categories_each_named_by_itself() -> None:
    assert len(THINGS) == 77
    for thing in THINGS:
        assert named_things(thing) == [thing]


@given(st.text(alphabet=st.sampled_from("ab -\n'çcat dog")))
def test_any_text_names_only_categories(text: str) -> None:
    assert set(named_things(text)) <= set(THINGS)


@pytest.mark.parametrize(
    ("captions", "thing"),
    [
        (["a dog", "a puppy", "an animal"], "dog"),
        (["a dog", "an animal"], None),
        (["a dog with a frisbee", "a dog catches a frisbee", "a frisbee and a dog"], "dog"),
        (["a dog by a car", "a car"], "car"),
        (["a dog by a car", "a car by a dog"], None),
        (["a man", "a person"], None),
    ],
)
def test_main_thing(captions: list[str], thing: str | None) -> None:
    assert main_thing(captions) == thing


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
    assert (report.overall, report.photos) == (0.75, 2)
    assert report.things == {"cat": 1, "train": 1}
    assert report.misses == [Miss("2.jpg", "train", "What?", "A train station.")]


def test_no_question_and_no_main_thing_are_refused() -> None:
    items = [CaptionedImage(Path("1.jpg"), ["people at a party"])]
    with pytest.raises(DataError, match="no question to ask"):
        evaluate_objects(Table({}), items, (), batch_size=1)
    with pytest.raises(DataError, match="none of 1 photos has a main thing"):
        evaluate_objects(Table({}), items, ("What?",), batch_size=1)

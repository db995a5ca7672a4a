"""Things: which ones a text names, and which is the main one of a photo."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm.data.things import THINGS, main_thing, named_things


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
    assert len(THINGS) == 77
    for thing, words in THINGS.items():
        for word in (thing, *words):
            assert named_things(f"A {word}.") == [thing]


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

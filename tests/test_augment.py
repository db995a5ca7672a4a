"""Other views of a photo: most of it, and what is said of them stays true."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from train.augment import mirror, view
from vlm.data.photos import FilePhoto
from vlm.data.sample import Message, Sample


@given(st.integers(1, 60), st.integers(1, 60), st.integers())
def test_most_of_a_photo_is_kept(width: int, height: int, seed: int) -> None:
    part = view(tiny.photo(size=(width, height)), False, random.Random(seed))
    assert 1 <= part.width <= width
    assert 1 <= part.height <= height
    # Each side is rounded to a pixel.
    assert (part.width + 0.5) * (part.height + 0.5) >= 0.6 * width * height


def test_a_generator_determines_the_view() -> None:
    photo = tiny.photo(size=(200, 150))
    first, again = (
        [view(photo, False, random.Random(seed)).tobytes() for seed in range(20)] for _ in range(2)
    )
    assert first == again
    assert len(set(first)) == 20


def said(*texts: str) -> Sample:
    """A sample of one photo and questions about it, all with the answer "A bed."."""
    answer = Message("assistant", ("A bed.",))
    asked = [(Message("user", (0, text)), answer) for text in texts]
    return Sample("line 1", (FilePhoto(Path("photo.png")),), tuple(asked))


def views(sample: Sample) -> list[tuple[bool, Sample]]:
    """What 40 seeds make of a sample: as it is, and mirrored if it ever is."""
    found = [mirror(sample, random.Random(seed)) for seed in range(40)]
    return sorted({mirrored: one for one, mirrored in found}.items(), key=lambda each: each[0])


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("A cat on the grass.", "A cat on the grass."),
        ("He bought a copyright.", "He bought a copyright."),
        ("A man on the left.", "A man on the right."),
        ("Rightmost is a dog.", "Leftmost is a dog."),
        ("TO THE RIGHT", "TO THE LEFT"),
        (
            "what is on the left side of the bed and to the right of the left-hand lamp ?",
            "what is on the right side of the bed and to the left of the right-hand lamp ?",
        ),
    ],
)
def test_left_and_right_change_places_in_the_texts_of_a_mirrored_photo(
    text: str, mirrored: str
) -> None:
    plain, other = views(said("A dog.", text))
    assert plain == (False, said("A dog.", text))
    assert other == (True, said("A dog.", mirrored))


def test_the_question_of_a_caption_is_of_the_mirrored_photo_too() -> None:
    caption = replace(said("A dog."), questions=("What is on the left?", "What is it?"))
    turned = replace(caption, questions=("What is on the right?", "What is it?"))
    assert views(caption) == [(False, caption), (True, turned)]
    unclear = replace(caption, questions=("What is left?",))
    assert views(unclear) == [(False, unclear)]


@pytest.mark.parametrize(
    "text", ["A bag left behind.", "He stares right in the camera.", "The bus turned left."]
)
def test_nothing_is_mirrored_where_they_may_mean_something_else(text: str) -> None:
    sample = said("what is to the left ?", text)
    assert views(sample) == [(False, sample)]


def test_nothing_is_mirrored_without_a_photo() -> None:
    talk = Message("user", ("Which side is the heart on?",)), Message("assistant", ("The left.",))
    sample = Sample("line 1", (), (talk,))
    assert views(sample) == [(False, sample)]


WORDS = ["left", "Right", "the", "to", "far", "side", "of", "hand", "over", "bed", "-", " ", "."]


@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_mirrored_twice_it_is_the_same(words: list[str]) -> None:
    sample = said("".join(words))
    for mirrored, once in views(sample):
        assert (True, sample) in views(once) if mirrored else once == sample

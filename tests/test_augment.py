"""Other views of a photo: most of it, and never the wrong way round."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests import tiny
from train.augment import augment


@given(st.integers(1, 60), st.integers(1, 60), st.integers())
def test_most_of_a_photo_is_kept(width: int, height: int, seed: int) -> None:
    part = augment(tiny.photo(size=(width, height)), [], random.Random(seed))
    assert 1 <= part.width <= width
    assert 1 <= part.height <= height
    # Each side is rounded to a pixel.
    assert (part.width + 0.5) * (part.height + 0.5) >= 0.6 * width * height


def test_a_generator_determines_the_view() -> None:
    photo = tiny.photo(size=(200, 150))
    first, again = (
        [augment(photo, [], random.Random(seed)).tobytes() for seed in range(20)] for _ in range(2)
    )
    assert first == again
    assert len(set(first)) == 20


def red_left() -> Image.Image:
    """Red, but for a blue right side that no view leaves out."""
    photo = Image.new("RGB", (100, 100), "red")
    photo.paste("blue", (55, 0, 100, 100))
    return photo


@pytest.mark.parametrize(
    ("text", "may_mirror"),
    [
        ("A cat on the grass.", True),
        ("He bought a copyright.", True),
        ("A man on the left.", False),
        ("Rightmost is a dog.", False),
        ("TO THE RIGHT", False),
    ],
)
def test_what_is_left_stays_left_where_a_text_says_so(text: str, may_mirror: bool) -> None:
    parts = [augment(red_left(), ["A dog.", text], random.Random(seed)) for seed in range(40)]
    first = {part.getpixel((0, part.height // 2)) for part in parts}
    assert (len(first) == 2) == may_mirror
    assert (255, 0, 0) in first

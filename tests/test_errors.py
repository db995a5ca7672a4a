"""Errors are one line that a terminal shows whole, whatever was named in them."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm.errors import LONGEST, DataError, shortened

DATA_URL = "data:image/png;base64," + "A" * 320_000


@given(text=st.text() | st.text("a \n", min_size=250), longest=st.integers(30, 400))
def test_any_text_becomes_one_short_line(text: str, longest: int) -> None:
    line = shortened(text, longest)
    assert len(line) <= longest
    assert len(line.splitlines()) <= 1
    assert shortened(line, longest) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cannot read 'a  b.jpg': it is empty", "cannot read 'a  b.jpg': it is empty"),
        ("an error\n  of two lines\r\n", "an error of two lines"),
        (
            f"cannot read {DATA_URL}: say why",
            f"cannot read data:image/png;base64,{'A' * 16}...{'A' * 18}: say why",
        ),
        ("word " * 100 + "the remedy", "the remedy"),
    ],
)
def test_what_is_left_of_a_long_text(text: str, line: str) -> None:
    assert line in shortened(text)


def test_an_error_is_short_through_any_number_of_hands() -> None:
    error = DataError(f"{DATA_URL}, line 1: {DataError(DATA_URL)}")
    assert len(str(error)) <= LONGEST
    assert str(pickle.loads(pickle.dumps(error))) == str(error)

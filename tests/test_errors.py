"""Errors are one line, whatever a stranger's file holds."""

from hypothesis import given
from hypothesis import strategies as st

from vlm.errors import LONGEST, DataError, shortened


@given(text=st.text(max_size=700), most=st.integers(10, 400))
def test_of_a_long_line_the_middle_is_left_out(text: str, most: int) -> None:
    short = shortened(text, most)
    assert len(short) == min(len(text), most)
    begin, dots, end = short.partition("...") if len(text) > most else (text, "...", "")
    assert (text.startswith(begin), dots, text.endswith(end)) == (True, "...", True)


def test_what_to_do_is_kept() -> None:
    error = DataError(f"no folder {'x' * 10_000}: name another in `images`")
    assert len(str(error)) == LONGEST
    assert str(error).startswith("no folder xxx")
    assert str(error).endswith("xxx: name another in `images`")

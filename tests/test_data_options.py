"""Which option an answer is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm.data.options import letter_of, options_of
from vlm.data.sample import SkipSample


@pytest.mark.parametrize(
    ("given_options", "answer", "letter"),
    [
        (["red", "dark red"], "dark red", "B"),
        (["1", "2", "3"], "2", "B"),
        ([2, 3], 3, "B"),
        (["yes", "no"], 1, "B"),
        (["B", "C"], "A", "A"),
        ({"A": "cat", "C": "dog"}, "C", "C"),
        ({"1": "cat", "2": "dog"}, "2", "2"),
        ({"label": ["A", "B"], "text": ["cat", "dog"]}, "dog", "B"),
        (["True", "False"], True, "A"),
        (["A. red", "B. dark red"], "red", "A"),
        (["(A) red", "(B) dark red"], "dark red", "B"),
        (["A. red", "dark red"], "A. red", "A"),
    ],
)
def test_an_answer_by_letter_text_or_place(
    given_options: object, answer: object, letter: str
) -> None:
    assert letter_of(answer, options_of(given_options)) == letter


@pytest.mark.parametrize(
    ("given_options", "answer", "which"),
    [
        (["cat", "dog"], "bus", "none"),
        (["cat", "dog"], 2, "none"),
        (["cat", "dog"], -1, "none"),
        (["cat", "dog"], None, "none"),
        # By place and by text.
        ([1, 2, 3], 2, "several"),
        (["B", "A"], "A", "several"),
        (["cat", "cat"], "cat", "several"),
    ],
)
def test_an_answer_that_is_no_option_or_several(
    given_options: object, answer: object, which: str
) -> None:
    with pytest.raises(SkipSample, match=f"answer is {which} of the choices"):
        letter_of(answer, options_of(given_options))


@given(texts=st.lists(st.text("cdef", min_size=2), min_size=2, max_size=26, unique=True))
def test_every_option_is_found_by_letter_text_and_place(texts: list[str]) -> None:
    options = options_of(texts)
    for place, (letter, text) in enumerate(options.items()):
        assert {letter_of(one, options) for one in (letter, f"({letter})", text, place)} == {letter}


@pytest.mark.parametrize("value", ["cat, dog", 3, ["cat"], ["cat", None], {"A": []}, ["x"] * 27])
def test_what_is_no_list_of_options(value: object) -> None:
    with pytest.raises(SkipSample, match="choices are not a list of texts"):
        options_of(value)
    assert options_of(None) == options_of([]) == options_of("") == {}

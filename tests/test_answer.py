"""Streaming an answer: what is sent is what the whole text would be."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from vlm.answer import AnswerText

LETTERS = st.sampled_from([*"ab .\n", "é", "猫", "🙂", "👩‍👩‍👧", "\ufffd"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(LETTERS).map("".join)
STOPS = st.lists(st.lists(LETTERS, max_size=4).map("".join), max_size=3)


def cut(text: str, stops: list[str]) -> str:
    """The text up to the stop string that is complete first."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


def ids_of(text: str, cuts: list[int]) -> list[int]:
    """Token ids of the text tokenised in pieces; pieces of one byte where it is cut there."""
    tokenizer = tiny.tokenizer()
    borders = sorted({0, len(text), *(n % (len(text) + 1) for n in cuts)})
    pieces = [text[a:b] for a, b in pairwise(borders)]
    return [i for piece in pieces for i in tokenizer.encode(piece, split_special_tokens=True)]


@given(TEXTS, STOPS, st.lists(st.integers(0, 50), max_size=4))
def test_pieces_are_the_text_up_to_the_first_stop(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    answer = AnswerText(tiny.tokenizer(), stops)
    sent, expected = "", cut(text.lstrip(), stops)
    for token in ids_of(text, cuts):
        sent += answer.push(token)
        assert expected.startswith(sent)
        if answer.stopped:
            break
    assert sent + answer.finish() == expected


@pytest.mark.parametrize("character", ["é", "猫", "🙂"])
def test_a_character_comes_whole(character: str) -> None:
    answer = AnswerText(tiny.tokenizer(), [])
    tokens = tiny.tokenizer().encode(f"{character}a")
    assert len(tokens) > 2
    assert [piece for piece in map(answer.push, tokens) if piece] == [character, "a"]


def test_half_a_character_at_the_end_is_not_lost_silently() -> None:
    answer = AnswerText(tiny.tokenizer(), [])
    first, *_ = tiny.tokenizer().encode("猫")
    assert answer.push(first) == ""
    assert answer.finish() == "\ufffd"


def test_what_may_become_a_stop_string_is_held_back() -> None:
    tokenizer = tiny.tokenizer()
    answer = AnswerText(tokenizer, ["###"])
    pieces = [answer.push(*tokenizer.encode(character)) for character in "a##b###c"]
    assert pieces == ["a", "", "", "##b", "", "", "", ""]
    assert answer.stopped
    assert answer.finish() == ""


def test_special_tokens_and_leading_space_are_no_text() -> None:
    tokenizer = tiny.tokenizer()
    answer = AnswerText(tokenizer, [])
    ids = [*tokenizer.encode(" \n a"), *tokenizer.encode("<|im_start|>"), *tokenizer.encode(" b ")]
    assert "".join(map(answer.push, ids)) + answer.finish() == "a b "

"""Conversations about photos, in every form that they are published in.

- LLaVA (Liu et al. 2023): `conversations` of `from` and `value`, `image` a path or a list of them;
- chat APIs, LLaMA-Factory, ms-swift, TRL: `messages` of `role` and `content`, which is a text or a
  list of parts, with or without `images` beside them. A part's image is a path or a `data:` URL,
  as in `{"type": "image_url", "image_url": {"url": ...}}` (OpenAI), or Anthropic's `source`;
- The Cauldron (Laurençon et al. 2024): `images`, and `texts` of `user` and `assistant`.

Photos are where the questions say: each `<image>`, and each part `{"type": "image"}` that names
none, is the next of `image` and `images`; parts that name one, and Qwen-VL's `<img>a.jpg</img>`,
bring their own. Where no question says anything, all are in front of the first one, as TRL,
ms-swift and nanoVLM have it (LLaMA-Factory and Qwen2.5-VL refuse such a sample, LLaVA has no place
for its photo). ms-swift also puts there what is more than there are `<image>`: here, as in the
others, such a sample cannot be used.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from vlm.data.records import Record, photo_at, require
from vlm.data.sample import Conversation, Message, Sample, SkipSample, kinds_of, text_of
from vlm.data.source import DataSource
from vlm.data.unread import refuse_tags, unread
from vlm.messages import image_in

LISTS = ("conversations", "messages", "texts")
"""Keys of a record's turns."""

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "system": "system",
    "developer": "system",
}
"""Who speaks, by the names that the forms have for them."""

LLAVA = {"from", "value"}
"""Keys of a turn."""

PLACE = re.compile("<image>|<img>([^<]*)</img>")


class Turn(NamedTuple):
    """Who speaks, and the content as its form has it."""

    role: str
    content: Any


class Place(NamedTuple):
    """Where a question has a photo: the one that it names; None is the next of the record's."""

    named: Any = None


def conversation_sample(source: DataSource, record: Record) -> Sample:
    """The conversation of a record, or of a data set's row with photos in place of their cells."""
    keys = [name for name in LISTS if name in record.content]
    if not keys:
        require(record.where, LISTS[:1], record.content)
    row = present(record.content)
    key = next((name for name in keys if name in row), keys[0])
    # Beside photos, a file's name says something about them.
    usual = [name for name in ("image", "images") if name in row] or ["file_name"]
    names = [source.columns.image] if source.columns.image else usual
    lists = [one if isinstance(one, list) else [one] for one in (row.pop(n, []) for n in names)]
    # Some write the same photos under two names.
    images = [image for at, own in enumerate(lists) if own not in lists[:at] for image in own]
    turns, dropped = turns_of(row.pop(key, None))
    if "system" in row and turns[0].role != "system":
        turns.insert(0, Turn("system", row.pop("system")))
    conversation, named, blank = converse(turns, images)
    dropped += blank + unread(row, named)
    photos = tuple([photo_at(source, name) for name in named])
    kinds, dropped = (kinds_of(record.content),), list(dict.fromkeys(dropped))
    return Sample(record.where, photos, (conversation,), kinds=kinds, dropped=tuple(dropped))


def earlier(row: Mapping[str, Any]) -> list[Turn]:
    """What a record with one question has in front of it: `system`, and `history`, a list of
    questions with their answers, which are trained as well (ms-swift, LLaMA-Factory)."""
    turns = [Turn("system", row["system"])] if row.get("system") else []
    history = row.get("history") or []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise SkipSample("history is not pairs of question and answer", repr(pair))
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return turns


def turns_of(listed: Any) -> tuple[list[Turn], list[str]]:
    """The turns of any form, and words for what of them is dropped."""
    if not isinstance(listed, list) or not listed:
        raise SkipSample("no question and answer")
    turns: list[Turn] = []
    dropped: list[str] = []
    for number, found in enumerate(listed, start=1):
        if not isinstance(found, dict):
            raise SkipSample("turn is not an object", f"turn {number} is {found!r}")
        if found.keys() == LLAVA and (role := ROLES.get(str(found["from"]))):
            # Most are of this form, and 665,000 conversations have five million.
            turns.append(Turn(role, found["value"]))
            continue
        turn = present(found)
        if "user" in turn and "assistant" in turn:
            turns += [Turn(role, turn.pop(role)) for role in ("user", "assistant")]
        else:
            who = turn.pop("from", turn.pop("role", None))
            role = ROLES.get(str(who).lower())
            if role is None:
                raise SkipSample("unknown speaker", f"turn {number} is from {who!r}")
            turns.append(Turn(role, turn.pop("value", turn.pop("content", None))))
        if turn:
            # OpenAI's and ms-swift's words for it.
            if turn.get("weight") == 0 or turn.get("loss") is False:
                raise SkipSample("an answer is not to be learned", f"turn {number}")
            dropped += [f"{word} of a turn" for word in unread(turn)]
    return turns, dropped


def converse(
    turns: Sequence[Turn], images: Sequence[Any]
) -> tuple[Conversation, list[Any], list[str]]:
    """A conversation, what each photo in it names, and words for what is dropped: an answer in
    front of the first question, as in LLaVA, and questions or answers without a word."""
    messages, pairs, dropped, last = [], [], [], len(turns)
    if turns[0].role == "system":
        told, *turns = turns
        if text := text_in(told.content, "system message"):
            refuse_tags(text)
            messages.append(Message("system", (text,)))
    if turns and turns[0].role == "assistant":
        dropped, turns = ["answer in front of the first question"], turns[1:]
    for at, turn in enumerate(turns):
        if turn.role != ("user", "assistant")[at % 2]:
            number = last - len(turns) + at + 1
            raise SkipSample("turns do not alternate", f"turn {number} is from the {turn.role}")
    if not turns or len(turns) % 2:
        raise SkipSample("no answer to the last question")
    for asked, answered in zip(turns[::2], turns[1::2], strict=True):
        question, answer = question_in(asked.content), text_in(answered.content, "answer")
        if question and answer:
            pairs.append((question, answer))
            continue
        dropped.append("blank answer" if question else "blank question")
        if any(isinstance(piece, Place) for piece in question):
            # Without its photo, what follows would be about nothing.
            raise SkipSample(dropped[-1])
    if not pairs:
        raise SkipSample(dropped[-1])
    questions, named = place([question for question, _ in pairs], images)
    for parts, (_, answer) in zip(questions, pairs, strict=True):
        messages += [Message("user", parts), Message("assistant", (answer,))]
    return tuple(messages), named, dropped


def place(
    questions: list[list[str | Place]], images: Sequence[Any]
) -> tuple[list[tuple[str | int, ...]], list[Any]]:
    """Questions whose photos are numbered in their order, and what each number names."""
    places = [piece for question in questions for piece in question if isinstance(piece, Place)]
    if not places:
        questions = [[Place()] * len(images) + questions[0], *questions[1:]]
        places = [Place()] * len(images)
    missing = places.count(Place())
    if missing != len(images):
        raise SkipSample("<image> and images differ", f"{missing} <image>, {len(images)} images")
    numbers, left = count(), iter(images)
    named = [next(left) if one.named is None else one.named for one in places]
    return [
        tuple([piece if isinstance(piece, str) else next(numbers) for piece in question])
        for question in questions
    ], named


def question_in(content: Any) -> list[str | Place]:
    """Text and places of photos in order, spaces at the ends removed. A line break behind a photo
    is left out, since a prompt has one there."""
    if isinstance(content, str) and "<" not in content:
        text = text_of(content, "question") if content.strip() else ""
        return [text] if text else []
    said: list[str | Place] = []
    for piece in pieces(content, "question"):
        # Text, and what a place names, in turn.
        found = PLACE.split(piece) if isinstance(piece, str) else ["", piece.named, ""]
        said += [Place(one) if at % 2 else one for at, one in enumerate(found) if at % 2 or one]
    text = "".join([piece for piece in said if isinstance(piece, str)])
    if text.strip():
        refuse_tags(text_of(text, "question"))
    for at, piece in enumerate(said):
        if isinstance(piece, str):
            behind = at > 0 and isinstance(said[at - 1], Place)
            piece = piece.removeprefix("\n") if behind else piece
            piece = piece.lstrip() if at == 0 else piece
            said[at] = piece.rstrip() if at == len(said) - 1 else piece
    return [piece for piece in said if isinstance(piece, Place) or piece.strip()]


def text_in(content: Any, what: str) -> str:
    """The text of a content that has no photos, spaces at the ends removed."""
    if isinstance(content, str):
        return text_of(content, what) if content.strip() else ""
    said = list(pieces(content, what))
    if any(isinstance(piece, Place) for piece in said):
        raise SkipSample(f"photo in the {what}")
    text = "".join(said)
    return text_of(text, what) if text.strip() else ""


def pieces(content: Any, what: str) -> Iterator[str | Place]:
    """The texts and images of a content: a text, or a list of parts."""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict):
            found = present(part)
            kind = found.get("type") or next(iter(found), None)
            if kind in ("image", "image_url"):
                yield Place(image_in(found))
                continue
            if kind != "text":
                raise SkipSample(f"unread part {kind!r}")
            part = found.get("text")
        yield part if isinstance(part, str) else text_of(part, what)


def present(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is there: where one record lacks a key that others have, Arrow has None."""
    if None not in found.values():
        return dict(found)
    return {key: value for key, value in found.items() if value is not None}

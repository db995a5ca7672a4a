"""One sample: conversations about the same photos; and what is wrong with one that is skipped."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vlm.data.photos import Photo
from vlm.data.source import DataSource, Format
from vlm.errors import shortened

REASON, DETAIL = 80, 200
"""Characters of a reason, and of what it adds about one sample."""

HALF = re.compile("[\ud800-\udfff]")
"""Half of a UTF-16 surrogate pair."""

KINDS = ("kind", "category", "type", "question_type", "answer_type")
"""Keys and columns that say what kind of question it is, each of which is a breakdown of scores."""


class Message(NamedTuple):
    """What the `user` or the `assistant` says, or the `system` message in front of them: text, and
    photos by their place in `Sample.photos`."""

    role: str
    parts: tuple[str | int, ...]

    def with_images(self, images: Sequence[Any]) -> dict[str, Any]:
        """The message in the form that `VisionLanguageModel.prompt` takes."""
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": images[part]}
            for part in self.parts
        ]
        return {"role": self.role, "content": content}


Conversation = tuple[Message, ...]
"""Messages of user and assistant in turn, perhaps behind one of the system."""


@dataclass(frozen=True)
class Sample:
    """Conversations about the same photos, trained together behind one copy of them.

    Captions answer one of `questions`, drawn in each epoch and put behind the photos of each first
    question. Evaluation compares with `answers`, all right ones to each conversation's question, or
    one tuple of all captions; `ids` of the questions, their `options` by letter, and `kinds`, by
    the name of a breakdown of scores, are for it too. `dropped` says what of the record was left
    out, in the same words for the same kind, such as "blank caption".
    """

    where: str
    photos: tuple[Photo, ...]
    conversations: tuple[Conversation, ...]
    questions: tuple[str, ...] = ()
    answers: tuple[tuple[str, ...], ...] = field(default=(), compare=False)
    kinds: tuple[dict[str, str], ...] = field(default=(), compare=False)
    ids: tuple[str, ...] = field(default=(), compare=False)
    options: tuple[Mapping[str, str], ...] = field(default=(), compare=False)
    dropped: tuple[str, ...] = field(default=(), compare=False)

    def messages(self, generator: random.Random) -> list[list[dict[str, Any]]]:
        """The conversations in the form that `VisionLanguageModel.prompt` takes."""
        drawn = (generator.choice(self.questions),) if self.questions else ()
        rows = []
        for conversation in self.conversations:
            said = list(conversation)
            first = int(said[0].role == "system")
            said[first] = Message(said[first].role, said[first].parts + drawn)
            rows.append([message.with_images(self.photos) for message in said])
        return rows

    def texts(self) -> list[str]:
        """All that is said in the conversations; drawn questions are not."""
        said = [message for conversation in self.conversations for message in conversation]
        return [part for message in said for part in message.parts if isinstance(part, str)]


@dataclass(frozen=True)
class Skipped:
    """A sample that is not used. The reason is the same words for the same kind of problem, so that
    they can be counted."""

    where: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return shortened(" ".join(f"{self.where}: {self.reason} {self.detail}".split()))


class SkipSample(Exception):
    """Why a sample is skipped; raised and caught while one sample is read. What comes into the
    folders that are `lacking` may change that."""

    def __init__(self, reason: str, detail: str = "", lacking: Iterable[str] = ()) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = shortened(reason, REASON), shortened(detail, DETAIL)
        self.lacking = tuple(lacking)

    def at(self, where: str) -> Skipped:
        """The sample at this place, skipped."""
        return Skipped(where, self.reason, self.detail)


@dataclass
class Samples:
    """What a source holds, in its order: the samples that can be used and those that cannot, how
    often something of a usable one was dropped, and the folders that lack photos, with their times
    (see `vlm.data.records.changed`)."""

    source: DataSource
    format: Format
    usable: Sequence[Sample] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    lacking: dict[str, int | None] = field(default_factory=dict)


def text_of(value: object, what: str) -> str:
    """A text field, spaces at its ends removed; a SkipSample if it is not a string, has half of a
    UTF-16 surrogate pair in it, or nothing."""
    if not isinstance(value, str) or not (value.isascii() or not HALF.search(value)):
        raise SkipSample(f"{what} is not text", repr(value))
    if not (text := value.strip()):
        raise SkipSample(f"blank {what}")
    return text


def texts_of(
    value: object, what: str, read: Callable[[Any, str], str] = text_of
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of a field, which is one or a list, and why others in it are dropped, see
    `text_of`; a SkipSample if none is left."""
    if value is None or value == []:
        raise SkipSample(f"no {what}s")
    kept: list[str] = []
    errors: list[SkipSample] = []
    for text in value if isinstance(value, list) else [value]:
        try:
            kept.append(read(text, what))
        except SkipSample as error:
            errors.append(error)
    if not kept:
        raise errors[0]
    return tuple(kept), tuple(error.reason for error in errors)


def kinds_of(row: Mapping[str, Any]) -> dict[str, str]:
    """What a record has under any of `KINDS`: texts and numbers, not lists of them."""
    values = ((name, row[name]) for name in KINDS if name in row)
    labels = {name: str(value).strip() for name, value in values if isinstance(value, str | int)}
    return {name: label for name, label in labels.items() if label}


def by_reason(skipped: Iterable[Skipped]) -> str:
    """How many samples were skipped for what, the most frequent reason first."""
    return counted(Counter(one.reason for one in skipped))


def counted(reasons: Counter[str]) -> str:
    """Reasons with their numbers, the most frequent first; beyond eight, how many more."""
    named = [f"{count:,} {reason}" for reason, count in reasons.most_common(8)]
    if len(reasons) > len(named):
        named.append(f"{len(reasons) - len(named)} other reasons")
    return ", ".join(named)

"""One sample: conversations about the same photos; and what is wrong with one that is skipped."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlm.data.photos import Photo
from vlm.data.source import DataSource, Format

KINDS = ("kind", "category", "type", "question_type", "answer_type")
"""Keys and columns that say what kind of question it is, each of which is a breakdown of scores."""


@dataclass(frozen=True)
class Message:
    """What the `user` or the `assistant` says, or the `system` message in front of them: text, and
    photos by their place in `Sample.photos`."""

    role: str
    parts: tuple[str | int, ...]


Conversation = tuple[Message, ...]
"""Messages of user and assistant in turn, perhaps behind one of the system."""


@dataclass(frozen=True)
class Sample:
    """Conversations about the same photos, trained together behind one copy of them.

    Captions answer one of `questions`, drawn in each epoch and put behind the photos of each first
    message. Evaluation compares with `answers`, all right ones to each conversation's question, or
    one tuple of all captions; `kinds` of each question, by the name of a breakdown of scores, are
    for that. `dropped` says what of the record was left out, in the same words for the same kind,
    such as "blank caption".
    """

    where: str
    photos: tuple[Photo, ...]
    conversations: tuple[Conversation, ...]
    questions: tuple[str, ...] = ()
    answers: tuple[tuple[str, ...], ...] = field(default=(), compare=False)
    kinds: tuple[dict[str, str], ...] = field(default=(), compare=False)
    dropped: tuple[str, ...] = field(default=(), compare=False)

    def messages(self, generator: random.Random) -> list[list[dict[str, Any]]]:
        """The conversations in the form that `VisionLanguageModel.prompt` takes."""
        drawn = (generator.choice(self.questions),) if self.questions else ()
        rows = []
        for first, *rest in self.conversations:
            opened = Message(first.role, first.parts + drawn)
            rows.append([self._message(message) for message in (opened, *rest)])
        return rows

    def texts(self) -> list[str]:
        """All that is said in the conversations; drawn questions are not."""
        said = [message for conversation in self.conversations for message in conversation]
        return [part for message in said for part in message.parts if isinstance(part, str)]

    def _message(self, message: Message) -> dict[str, Any]:
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": self.photos[part]}
            for part in message.parts
        ]
        return {"role": message.role, "content": content}


@dataclass(frozen=True)
class Skipped:
    """A sample that is not used. The reason is the same words for the same kind of problem, so that
    they can be counted."""

    where: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.reason} {self.detail}".split())


class SkipSample(Exception):
    """Why a sample is skipped; raised and caught while one sample is read."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def at(self, where: str) -> Skipped:
        """The sample at this place, skipped."""
        return Skipped(where, self.reason, self.detail)


@dataclass
class Samples:
    """What a source holds, in its order: the samples that can be used and those that cannot, and
    how often something of a usable one was dropped."""

    source: DataSource
    format: Format
    usable: list[Sample] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def text_of(value: object, what: str) -> str:
    """A text field, spaces at its ends removed; a SkipSample if it is not a string, has half of a
    UTF-16 surrogate pair in it, or nothing."""
    if not isinstance(value, str) or re.search("[\ud800-\udfff]", value):
        raise SkipSample(f"{what} is not text", repr(value)[:100])
    if not value.strip():
        raise SkipSample(f"empty {what}")
    return value.strip()


def texts_of(value: object, what: str) -> tuple[str, ...]:
    """A text, or a list of at least one, see `text_of`."""
    if value is None or value == []:
        raise SkipSample(f"no {what}s")
    return tuple(text_of(text, what) for text in (value if isinstance(value, list) else [value]))


def kinds_of(row: Mapping[str, Any]) -> dict[str, str]:
    """What a record has under any of `KINDS`: texts and numbers, not lists of them."""
    values = ((name, row.get(name)) for name in KINDS)
    labels = {name: str(value).strip() for name, value in values if isinstance(value, str | int)}
    return {name: label for name, label in labels.items() if label}


def asked(question: object, answers: Sequence[str], source: DataSource) -> Conversation:
    """One question about one photo, with the source's instruction behind it, and its answer: of
    several, the one given most (the first of those given equally often), or all of them, joined as
    in DAQUAR."""
    text = text_of(question, "question")
    if source.instruction is not None:
        text = f"{text}\n{source.instruction}"
    most = Counter(answers).most_common(1)[0][0]
    answer = ", ".join(answers) if source.answers == "all" else most
    return Message("user", (0, text)), Message("assistant", (answer,))


def captioned(where: str, photo: Photo, captions: object, questions: Sequence[str]) -> Sample:
    """A photo with what people say of it: one conversation for each different caption, which
    answers any of the questions."""
    said = texts_of(captions, "caption")
    conversations = tuple(
        (Message("user", (0,)), Message("assistant", (caption,)))
        for caption in dict.fromkeys(map(tidy, said))
    )
    return Sample(where, (photo,), conversations, tuple(questions), (said,))


def tidy(caption: str) -> str:
    """A caption as one would write it: capital first, a full stop behind its last letter or digit,
    no space in front of it. Other marks at its end, those of other scripts among them, stay."""
    words = " ".join(caption.split())
    words = f"{words[:1].upper()}{words[1:]}"
    bare = words.rstrip(" .")
    if bare.endswith(("!", "?")):
        return bare
    return f"{bare}." if bare[-1:].isalnum() else re.sub(r" \.$", ".", words)


def by_reason(skipped: Iterable[Skipped]) -> str:
    """How many samples were skipped for what, the most frequent reason first."""
    return counted(Counter(one.reason for one in skipped))


def counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())

"""One sample: conversations about the same photos; and what is wrong with one that is not used."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vlm.data.photos import Photo
from vlm.data.source import DataSource, Format


@dataclass(frozen=True)
class Message:
    """What one side says.

    Attributes:
        role: `user` or `assistant`.
        parts: text, and photos by their place in `Sample.photos`.
    """

    role: str
    parts: tuple[str | int, ...]


Conversation = tuple[Message, ...]
"""Messages of user and assistant in turn."""


@dataclass(frozen=True)
class Sample:
    """Conversations about the same photos, trained together behind one copy of them.

    Attributes:
        where: file and line, for messages.
        photos: may be none.
        conversations: each alternates from user to assistant.
        questions: if there are any, one is drawn in each epoch and put behind the photos of each
            first message: what captions are the answer to.
        answers: what evaluation compares with: all right answers to each conversation's question,
            or one tuple of all captions; none where the conversations have them.
        kinds: of each question, for the breakdown of scores; none if the source does not say.
    """

    where: str
    photos: tuple[Photo, ...]
    conversations: tuple[Conversation, ...]
    questions: tuple[str, ...] = ()
    answers: tuple[tuple[str, ...], ...] = field(default=(), compare=False)
    kinds: tuple[str | None, ...] = field(default=(), compare=False)

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
    """A sample that is not trained on.

    Attributes:
        where: file and line.
        reason: the same words for the same kind of problem, so that they can be counted.
        detail: what exactly, for the report.
    """

    where: str
    reason: str
    detail: str = ""


class SkipSample(Exception):
    """Why a sample is skipped; raised and caught while one sample is read.

    Attributes:
        reason, detail: as in `Skipped`.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def at(self, where: str) -> Skipped:
        """The sample at this place, skipped."""
        return Skipped(where, self.reason, self.detail)


@dataclass
class Samples:
    """What a source holds: the samples that can be used and those that cannot.

    Attributes:
        source: where they come from.
        format: as which it was read.
        usable: in the source's order.
        skipped: likewise.
    """

    source: DataSource
    format: Format
    usable: list[Sample] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def text_of(value: object, what: str) -> str:
    """A text field, spaces at its ends removed.

    Raises:
        SkipSample: not a string, half of a UTF-16 surrogate pair in it, or nothing in it.
    """
    if not isinstance(value, str) or re.search("[\ud800-\udfff]", value):
        raise SkipSample(f"{what} is not text", repr(value)[:100])
    if not value.strip():
        raise SkipSample(f"empty {what}")
    return value.strip()


def answers_of(value: object) -> tuple[str, ...]:
    """All answers to a question.

    Raises:
        SkipSample: no text.
    """
    return tuple(
        text_of(answer, "answer") for answer in (value if isinstance(value, list) else [value])
    )


def answer_of(value: object, of_several: Literal["most", "all"]) -> str:
    """An answer, or of several the one given most (the first of those given equally often), or all
    of them, joined as in DAQUAR.

    Raises:
        SkipSample: no text.
    """
    if not isinstance(value, list):
        return text_of(value, "answer")
    if not value:
        raise SkipSample("empty answer")
    texts = [text_of(answer, "answer") for answer in value]
    return ", ".join(texts) if of_several == "all" else Counter(texts).most_common(1)[0][0]


def asked(question: object, answer: object, source: DataSource) -> Conversation:
    """A conversation of one question about one photo, and its answer.

    Args:
        question: a text.
        answer: a text, or a list of them.
        source: whose instruction goes behind the question; says which of several answers is right.

    Raises:
        SkipSample: no text.
    """
    text = text_of(question, "question")
    if source.instruction is not None:
        text = f"{text}\n{source.instruction}"
    return Message("user", (0, text)), Message("assistant", (answer_of(answer, source.answers),))


def captioned(where: str, photo: Photo, captions: object, questions: Sequence[str]) -> Sample:
    """A photo with what people say of it: one conversation for each different caption.

    Args:
        where: file and line.
        photo: the photo.
        captions: a text, or a list of them.
        questions: what a caption may be the answer to.

    Raises:
        SkipSample: no captions, or one that is no text.
    """
    texts = captions if isinstance(captions, list) else [captions]
    if not texts:
        raise SkipSample("no captions")
    said = tuple(text_of(text, "caption") for text in texts)
    conversations = tuple(
        (Message("user", (0,)), Message("assistant", (caption,)))
        for caption in dict.fromkeys(map(tidy, said))
    )
    return Sample(where, (photo,), conversations, tuple(questions), (said,))


def tidy(caption: str) -> str:
    """A caption as one would write it: capital first, a full stop behind its last letter or digit,
    no space in front of it. Other marks at its end, those of other scripts among them, stay.

    >>> tidy("a black dog runs . ")
    'A black dog runs.'
    >>> tidy('he says "hi."')
    'He says "hi."'
    """
    words = " ".join(caption.split())
    words = f"{words[:1].upper()}{words[1:]}"
    bare = words.rstrip(" .")
    if bare.endswith(("!", "?")):
        return bare
    return f"{bare}." if bare[-1:].isalnum() else re.sub(r" \.$", ".", words)


def by_reason(skipped: Iterable[Skipped]) -> str:
    """How many samples were skipped for what, the most frequent reason first.

    >>> by_reason([Skipped("a", "missing image"), Skipped("b", "missing image")])
    '2 missing image'
    """
    counts = Counter(one.reason for one in skipped)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())

"""Questions about photos and their answers: JSON-lines, and rows of any other kind.

A question is asked as evaluation asks it: its hint in front, its options behind, and the letter of
one is the answer. `system` is a system message, `history` the questions and answers before it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlm.data.columns import OPTIONS, Keys, keys_of
from vlm.data.conversations import Turn, converse, earlier
from vlm.data.options import letter_of, options_of, with_options
from vlm.data.records import Record, photo_at, photos_at, read_records
from vlm.data.sample import Conversation, Sample, SkipSample, kinds_of, text_of, texts_of
from vlm.data.source import DataSource
from vlm.data.unread import unread

KEYS = Keys("image", None, "question", "answers")
"""Of records that a reader makes."""


class Asked(NamedTuple):
    """A question as it is trained, all right answers to it, its options by letter, if it has some,
    and words for what is dropped."""

    conversation: Conversation
    answers: tuple[str, ...]
    options: dict[str, str]
    kinds: dict[str, str]
    dropped: list[str]


def question_records(source: DataSource) -> Iterator[Record]:
    """The photos of a file of lines such as `{"image": "a.jpg", "question": "What runs?",
    "answers": ["dog"]}`, or `answer` for one alone, with optional `kind`, `category`, `type` and
    `split`; in order of the first line about each."""
    photos: dict[tuple[str, str], Record] = {}
    for where, content, split in read_records(Path(source.path)):
        keys = keys_of(where, source.columns, content, "questions")
        # Whatever a line has for an image: one that is no path is skipped later.
        photo = str(content[keys.image]), str(split)
        asked = photos.setdefault(photo, Record(where, [], split)).content
        asked.append(Record(where, (content, keys)))
    yield from photos.values()


def photo_sample(source: DataSource, record: Record) -> Sample:
    """One photo, by the names that it may have, with records that ask about it."""
    names, records = record.content
    photo = photo_at(source, *names)
    rows = [Record(where, ({**content, "image": photo}, KEYS)) for where, content, _ in records]
    return question_sample(source, Record(record.where, rows))


def question_sample(source: DataSource, record: Record) -> Sample:
    """Photos with a conversation for each question about them, a row with its keys. A question that
    cannot be used is dropped; a SkipSample if none is left."""
    where, rows, _ = record
    first, keys = rows[0].content
    images, photos = photos_at(source, first[keys.image])
    used: list[tuple[str, Asked]] = []
    errors: list[SkipSample] = []
    for row in rows:
        try:
            # A line number, or the question's own.
            used.append((row.where.rpartition(" ")[2], ask(source, *row.content, images)))
        except SkipSample as error:
            place = "" if row.where == where and len(rows) == 1 else row.where
            errors.append(SkipSample(error.reason, f"{place} {error.detail}".strip()))
    if not used:
        raise errors[0]
    return Sample(
        where,
        photos,
        conversations=tuple(asked.conversation for _, asked in used),
        answers=tuple(asked.answers for _, asked in used),
        options=tuple(asked.options for _, asked in used),
        kinds=tuple(asked.kinds for _, asked in used),
        ids=tuple(number for number, _ in used),
        dropped=tuple(word for _, asked in used for word in asked.dropped)
        + tuple(error.reason for error in errors),
    )


def ask(source: DataSource, content: Mapping[str, Any], keys: Keys, images: Sequence[Any]) -> Asked:
    """One question about images: of several answers to it, the one given most (the first of those
    given equally often), or all of them, joined as in DAQUAR."""
    options = options_of(next(filter(None, map(content.get, OPTIONS)), None))
    answers, dropped = answers_of(content[keys.answer], options)
    hint = None if content.get("hint") in (None, "") else text_of(content["hint"], "hint")
    question = with_options(text_of(content[keys.question], "question"), options, hint)
    if source.instruction is not None and not options:
        question = f"{question}\n{source.instruction}"
    most = Counter(answers).most_common(1)[0][0]
    answer = ", ".join(answers) if source.answers == "all" else most
    turns = [*earlier(content), Turn("user", question), Turn("assistant", answer)]
    conversation, named, blank = converse(turns, images)
    if named != list(images):
        raise SkipSample("another photo in the question")
    left = unread(keys.left(content), images)
    return Asked(conversation, answers, options, kinds_of(content), [*dropped, *blank, *left])


def answers_of(given: Any, options: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The right answers to a question, letters where it has options, and why others are dropped."""
    given = given if isinstance(given, list) else [] if given is None else [given]
    # VQA v2's are objects.
    given = [one.get("answer") if isinstance(one, dict) else one for one in given]

    def read(answer: Any, what: str) -> str:
        return letter_of(answer, options) if options else text_of(answer_text(answer), what)

    return texts_of(given, "answer", read)


def answer_text(answer: Any) -> Any:
    """An answer that is a number, or true or false, as VQA's people write it: `3`, `yes`, `no`."""
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    finite = isinstance(answer, int) or (isinstance(answer, float) and math.isfinite(answer))
    return str(answer) if finite else answer

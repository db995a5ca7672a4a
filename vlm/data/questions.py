"""Question JSON-lines: `{"image": "a.jpg", "question": "What runs?", "answers": ["dog"]}`, or
`answer` for one alone, with optional `split`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm.data.records import Record, photo_at, read_records, require
from vlm.data.sample import Sample, SkipSample, answers_of, asked, text_of
from vlm.data.source import DataSource


def records(source: DataSource) -> Iterator[Record]:
    """The photos of a file, each with the lines that ask about it, in order of the first of them.

    Raises:
        DataError: the file cannot be read, or a line lacks `image`, `question`, or both `answers`
            and `answer`.
    """
    photos: dict[tuple[str, str], list[Record]] = {}
    for line in read_records(Path(source.path), required=("image", "question")):
        if "answer" not in line.content:
            require(line.where, ("image", "question", "answers"), line.content)
        # Whatever a line has for an image: one that is no path is skipped later.
        photos.setdefault((str(line.content["image"]), str(line.split)), []).append(line)
    for lines in photos.values():
        yield Record(lines[0].where, lines, lines[0].split)


def sample(source: DataSource, where: str, lines: list[Record]) -> Sample:
    """One photo with a conversation for each question.

    Raises:
        SkipSample: it is missing, or a question or an answer is no text; says of which line.
    """
    photo = photo_at(Path(source.path).parent, source.images, lines[0].content["image"])
    conversations, right, kinds = [], [], []
    for line in lines:
        content: dict[str, Any] = line.content
        try:
            answers = content.get("answers", content.get("answer"))
            conversations.append(asked(content["question"], answers, source))
            right.append(answers_of(answers))
            kind = content.get("kind")
            kinds.append(None if kind is None else text_of(kind, "kind"))
        except SkipSample as error:
            raise SkipSample(error.reason, f"{line.where} {error.detail}".strip()) from error
    return Sample(where, (photo,), tuple(conversations), answers=tuple(right), kinds=tuple(kinds))

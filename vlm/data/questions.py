"""Questions about photos and their answers, as JSON-lines."""

from collections.abc import Iterator
from pathlib import Path

from vlm.data.records import Record, photo_at, read_records, require
from vlm.data.sample import Sample, SkipSample, asked, kinds_of, texts_of
from vlm.data.source import DataSource


def question_records(source: DataSource) -> Iterator[Record]:
    """The photos of a file of lines such as `{"image": "a.jpg", "question": "What runs?",
    "answers": ["dog"]}`, or `answer` for one alone, with optional `kind`, `category`, `type` and
    `split`; in order of the first line about each."""
    photos: dict[tuple[str, str], list[Record]] = {}
    for line in read_records(Path(source.path), required=("image", "question")):
        if "answer" not in line.content:
            require(line.where, ("image", "question", "answers"), line.content)
        # Whatever a line has for an image: one that is no path is skipped later.
        photos.setdefault((str(line.content["image"]), str(line.split)), []).append(line)
    for lines in photos.values():
        first = lines[0]
        yield Record(first.where, ([first.content["image"]], lines), first.split)


def question_sample(source: DataSource, record: Record) -> Sample:
    """One photo, by the names that it may have, with a conversation for each object that asks about
    it: `question`, `answers` or `answer`, and optionally any of `KINDS`."""
    names, questions = record.content
    photo = photo_at(Path(source.path).parent, source.images, *names)
    conversations, right, kinds = [], [], []
    for where, content, _ in questions:
        try:
            right.append(texts_of(content.get("answers", content.get("answer")), "answer"))
            conversations.append(asked(content["question"], right[-1], source))
            kinds.append(kinds_of(content))
        except SkipSample as error:
            raise SkipSample(error.reason, f"{where} {error.detail}".strip()) from error
    return Sample(
        record.where, (photo,), tuple(conversations), answers=tuple(right), kinds=tuple(kinds)
    )

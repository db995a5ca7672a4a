"""Caption JSON-lines: one photo a line, `{"image": "a.jpg", "captions": ["A dog runs."]}`, with
optional `split` and `question`, see `vlm.data.captioned`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm.data.records import Record, photo_at, read_records
from vlm.data.sample import Sample, captioned, text_of
from vlm.data.source import DataSource


def records(source: DataSource) -> Iterator[Record]:
    """The photos of a file.

    Raises:
        DataError: the file cannot be read, or a line lacks `image` or `captions`.
    """
    return read_records(Path(source.path), required=("image", "captions"))


def sample(source: DataSource, where: str, record: dict[str, Any]) -> Sample:
    """One photo with its captions.

    Raises:
        SkipSample: it is missing, or a caption is no text.
    """
    photo = photo_at(Path(source.path).parent, source.images, record["image"])
    questions = source.questions
    if record.get("question") is not None:
        questions = [text_of(record["question"], "question")]
    return captioned(where, photo, record["captions"], questions)

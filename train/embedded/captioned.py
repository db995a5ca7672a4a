"""Photos and captions as what made the shipped model reads them: none may be missing."""

from dataclasses import dataclass
from pathlib import Path

from vlm.data.read import read_whole
from vlm.data.records import Record, photo_at
from vlm.data.sample import SkipSample
from vlm.data.source import DataSource
from vlm.errors import DataError


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo and what people say of it."""

    image: Path
    captions: list[str]


def read_captions(file: Path, split: str | None = None) -> list[CaptionedPhoto]:
    """The photos of a captions file (`image`, `captions`) in its order; of one split if it is
    given.

    Raises:
        DataError: as `vlm.data.read.read_whole`.
    """
    source = DataSource(str(file), "captions", split=split)
    return [
        CaptionedPhoto(sample.photos[0].path, list(sample.answers[0]))
        for sample in read_whole(source)
    ]


def photo_of(file: Path, record: Record) -> Path:
    """The path of the photo that a record of a file names.

    Raises:
        DataError: it is not there, or not in the folder of the file.
    """
    try:
        return photo_at(DataSource(str(file)), record.content["image"]).path
    except SkipSample as error:
        raise DataError(str(error.at(record.where))) from error

"""A folder of photos with a `.txt` file beside each: `dog.jpg` and `dog.txt`, a caption a line."""

from collections.abc import Iterator
from pathlib import Path

from vlm.data.photos import ENDINGS, FilePhoto
from vlm.data.records import Record, files_in
from vlm.data.sample import Sample, SkipSample, captioned
from vlm.data.source import DataSource


def records(source: DataSource) -> Iterator[Record]:
    """The photos, and the texts without one, of a folder and the folders in it, by their paths.

    Raises:
        DataError: a folder that is not there, or cannot be read.
    """
    paths = files_in(Path(source.path))
    photos = {path.with_suffix("") for path in paths if path.suffix.lower() in ENDINGS}
    for path in paths:
        lone = path.suffix == ".txt" and path.with_suffix("") not in photos
        if lone or path.suffix.lower() in ENDINGS:
            yield Record(str(path), path)


def sample(source: DataSource, where: str, path: Path) -> Sample:
    """One photo with its captions.

    Raises:
        SkipSample: a photo without a text, or a text without a photo.
    """
    if path.suffix == ".txt":
        raise SkipSample("missing image", f"no photo beside {path}")
    beside = path.with_suffix(".txt")
    try:
        text = beside.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SkipSample("no text beside the photo", f"{beside}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SkipSample("caption is not text", f"{beside}: {error}") from error
    return captioned(where, FilePhoto(path), lines_of(text), source.questions)


def lines_of(text: str) -> list[str]:
    """The lines with something in them."""
    return [line for line in text.splitlines() if line.strip()]

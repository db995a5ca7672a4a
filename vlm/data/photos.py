"""Photos of training data, wherever their bytes lie: in a file, in a tar shard, in a table."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vlm.errors import ImageError
from vlm.files import disk
from vlm.images import MAX_BYTES, load_image

ENDINGS = {
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
}
"""By which a photo is known in a folder or a tar file."""


@dataclass(frozen=True)
class FilePhoto:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def data(self) -> bytes:
        return _read(self.name, self.path, 0, MAX_BYTES + 1)


@dataclass(frozen=True)
class TarPhoto:
    """A member of an uncompressed tar file, read where it lies: offset and size in bytes."""

    tar: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.tar}:{self.member}"

    def data(self) -> bytes:
        return _read(self.name, self.tar, self.offset, min(self.size, MAX_BYTES + 1))


@dataclass(frozen=True, eq=False)
class RowPhoto:
    """An encoded image in a `datasets.Dataset` whose image column is not decoded
    (`Image(decode=False)`); path is that of the data set, for messages. One that the data set only
    names the file of is a `FilePhoto`."""

    path: str
    dataset: Any
    column: str
    row: int

    @property
    def name(self) -> str:
        return f"{self.path}, row {self.row}"

    def data(self) -> bytes:
        cell = self.dataset[self.row][self.column]
        if cell is None or cell["bytes"] is None:
            raise ImageError(f"cannot read {self.name!r}: no image in it")
        return cell["bytes"]


Photo = FilePhoto | TarPhoto | RowPhoto
"""An encoded image with a name for messages. Its `data` is read only when it is needed and is at
most one byte longer than `MAX_BYTES`; an ImageError if it cannot be read."""


def _read(name: str, file: Path, offset: int, size: int) -> bytes:
    with disk(f"cannot read {name!r}", ImageError), file.open("rb") as opened:
        opened.seek(offset)
        return opened.read(size)


def decode(photo: Photo) -> Image.Image:
    """The photo as RGB; an ImageError that names it if it cannot be read."""
    data = photo.data()
    try:
        return load_image(data)
    except ImageError as error:
        reason = str(error).removeprefix("cannot read image bytes: ")
        raise ImageError(f"cannot read {photo.name!r}: {reason}") from error


def digest(photo: Photo) -> bytes:
    """SHA-256 of the encoded image."""
    return hashlib.sha256(photo.data()).digest()

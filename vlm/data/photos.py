"""Photos of training data, wherever their bytes lie: in a file, in a tar shard, in a table, in the
text of a `data:` URL."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vlm.errors import ImageError
from vlm.files import disk
from vlm.images import MAX_BYTES, load_image, read_data_url

ENDINGS = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".heic", ".heif"),
}
"""By which a photo is known in a folder or a tar file."""


@dataclass(frozen=True, init=False)
class FilePhoto:
    # A text: of a million paths, each would take longer to make than its photo to be looked for.
    name: str

    def __init__(self, path: str | os.PathLike[str]) -> None:
        object.__setattr__(self, "name", os.fspath(path))

    @property
    def path(self) -> Path:
        return Path(self.name)

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
    """An encoded image in a `datasets.Dataset` of the format "arrow", at a place in the row's list,
    if it is one; path is that of the data set, for messages. One that the data set only names the
    file of is a `FilePhoto`."""

    path: str
    dataset: Any
    column: str
    row: int
    place: int | None = None

    @property
    def name(self) -> str:
        at = "" if self.place is None else f", image {self.place + 1}"
        return f"{self.path}, row {self.row}{at}"

    def data(self) -> bytes:
        cell = self.dataset[self.row][self.column][0]
        cell = cell if self.place is None else cell[self.place]
        found = cell.as_py()
        return found["bytes"] if isinstance(found, dict) else found


@dataclass(frozen=True)
class UrlPhoto:
    """A `data:` URL, kept as it is until the photo is needed."""

    url: str = field(repr=False)

    @property
    def name(self) -> str:
        return f"data URL {hashlib.sha256(self.url.encode()).hexdigest()[:16]}"

    def data(self) -> bytes:
        return read_data_url(self.url)[: MAX_BYTES + 1]


Photo = FilePhoto | TarPhoto | RowPhoto | UrlPhoto
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

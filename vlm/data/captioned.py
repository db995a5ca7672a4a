"""Captioned photos as JSON-lines: one object for each photo, beside the photos or their `images/`
folder."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm.data import records
from vlm.errors import DataError
from vlm.files import write_rows

NAMED_IN_ERRORS = 5


@dataclass(frozen=True)
class CaptionedImage:
    """A photo and what people say of it.

    Args:
        image: path of the photo.
        captions: one or more descriptions.
        split: the part of the data set it belongs to; None if the file does not say.
        question: the question that the captions answer; None if the file does not say.
    """

    image: Path
    captions: list[str]
    split: str | None = None
    question: str | None = None


def read_captions(file: Path, split: str | None = None) -> list[CaptionedImage]:
    """Read the photos of a JSON-lines file, in its order.

    A line holds `image` (a path relative to the file's folder, or to its `images/` folder when
    there is one), `captions` (a non-empty list of non-empty strings) and optionally `split` and
    `question`.

    Args:
        file: the JSON-lines file.
        split: keep only this split; None keeps all.

    Raises:
        DataError: no such file, a line that is not such an object, a path that leaves the folder,
            a photo that is not there, or no photo in that split.
    """
    items = []
    for number, record in read_records(file, required=("image", "captions")):
        where = f"{file}, line {number}"
        captions = require_texts(where, record["captions"], "caption")
        require_names(where, record, ("split", "question"))
        items.append(
            CaptionedImage(
                image_path(file, number, record["image"]),
                captions,
                record.get("split"),
                record.get("question"),
            )
        )
    if split is not None:
        there = sorted({item.split for item in items if item.split})
        items = [item for item in items if item.split == split]
        if not items:
            raise DataError(
                f"{file}: no photo in split '{split}'; there are: {', '.join(there) or 'no splits'}"
            )
    require_images(file, [item.image for item in items])
    return items


def read_records(file: Path, required: tuple[str, ...]) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file with their line numbers, see `records.read_records`."""
    found = records.read_records(file, required)
    return [(int(each.where.rpartition(" ")[2]), each.content) for each in found]


def image_path(file: Path, number: int, image: Any) -> Path:
    """The path of the photo that line `number` of `file` names, whether or not it is there.

    Raises:
        DataError: not a string, or a path that is absolute or has `..` in it.
    """
    where = f"{file}, line {number}"
    if not isinstance(image, str) or not image:
        raise DataError(f"{where}: 'image' must be a non-empty string")
    relative = Path(image)
    if relative.anchor or ".." in relative.parts:
        raise DataError(f"{where}: image '{image}' must be a path inside the folder of the file")
    inside = file.parent / "images" / relative
    # os.path.isfile, unlike Path's own, is False for names that no file system could hold.
    return inside if os.path.isfile(inside) else file.parent / relative


def require_texts(where: str, texts: Any, what: str) -> list[str]:
    """Checks that a record's list holds texts.

    Args:
        where: file and line.
        texts: what the record holds.
        what: one of them is; its plural is the record's key.

    Raises:
        DataError: no list, an empty one, or one with something else than text in it.
    """
    if not isinstance(texts, list) or not texts:
        raise DataError(f"{where}: '{what}s' must be a non-empty list of strings")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{where}: every {what} must be a non-empty string")
    return texts


def require_names(where: str, record: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Checks what a record may have or leave out.

    Raises:
        DataError: a key that is there and holds no text.
    """
    for key in keys:
        value = record.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise DataError(f"{where}: '{key}' must be a non-empty string or left out")


def require_images(file: Path, images: list[Path]) -> None:
    """Check that every photo that `file` names is there.

    Raises:
        DataError: names the first few that are not and counts them.
    """
    missing = [image for image in images if not os.path.isfile(image)]
    if missing:
        named = ", ".join(repr(image.name)[1:-1] for image in missing[:NAMED_IN_ERRORS])
        more = ", ..." if len(missing) > NAMED_IN_ERRORS else ""
        raise DataError(f"{file}: {len(missing)} of {len(images)} images missing: {named}{more}")


def write_records(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """See `files.write_rows`."""
    write_rows(file, rows)

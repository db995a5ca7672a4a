"""What the readers of files share: records with their places, and photos inside a folder."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from train.data.photos import FilePhoto
from train.data.sample import Unusable
from vlm.captions import read_records
from vlm.errors import DataError


class Record(NamedTuple):
    """What one sample is made of.

    Attributes:
        where: file and line, for messages.
        content: as the format has it.
        split: the part of the data that it belongs to; None where the format has no such thing.
    """

    where: str
    content: Any
    split: str | None = None


def head(file: Path) -> str:
    """The first 64 KiB of a text file, spaces in front removed.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return opened.read(1 << 16).decode("utf-8-sig", errors="replace").lstrip()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it cannot be read, or is not JSON; says where.
    """
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON: {error}") from error


def json_records(file: Path, required: tuple[str, ...]) -> Iterator[Record]:
    """The objects of JSON-lines or of a JSON list.

    Raises:
        DataError: the file cannot be read, something in it is no object, or a key is missing.
    """
    if head(file).startswith("["):
        for number, content in enumerate(read_json(file), start=1):
            where = f"{file}, record {number}"
            if not isinstance(content, dict):
                kind = type(content).__name__
                raise DataError(f"{where}: a JSON object is needed, not {kind}")
            require(where, required, content)
            yield Record(where, content, content.get("split"))
    else:
        for number, content in read_records(file, required):
            yield Record(f"{file}, line {number}", content, content.get("split"))


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and in the folders in it, by their paths. Links are followed; a folder
    that several of them lead to is read once.

    Raises:
        DataError: a folder that is not there, or cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error

    files: list[Path] = []
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            # A link back to where it lies would be followed for ever.
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        files += [Path(here, name) for name in names]
    return sorted(files)


def require(where: str, expected: Iterable[str], found: Iterable[str]) -> None:
    """Checks that keys or columns are there.

    Raises:
        DataError: says what was found and what was expected.
    """
    expected, found = list(expected), list(found)
    missing = [name for name in expected if name not in found]
    if missing:
        raise DataError(
            f"{where}: {', '.join(missing)} missing; "
            f"found {', '.join(found) or 'nothing'}, expected {', '.join(expected)}"
        )


def photo_at(folder: Path, images: Path | None, *names: Any) -> FilePhoto:
    """The photo that a file names.

    Args:
        folder: that of the file.
        images: the folder that paths start from; None is `folder` or `images` in it.
        names: of the photo; the first that is there is taken.

    Raises:
        Unusable: no such photo, or a path that leaves the folder.
    """
    for name in names:
        if not isinstance(name, str) or not name:
            raise Unusable("image is not a path", repr(name)[:100])
        if Path(name).anchor or ".." in Path(name).parts:
            raise Unusable("image path leaves its folder", name)
        for root in (folder / "images", folder) if images is None else (images,):
            # os.path.isfile, unlike Path's own, is False for names that no file system could hold.
            if os.path.isfile(root / name):
                return FilePhoto(root / name)
    raise Unusable("missing image", " or ".join(map(str, names)))

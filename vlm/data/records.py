"""Records: the objects of a file with their places, and the photos that they name."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlm.data.photos import FilePhoto
from vlm.data.sample import SkipSample
from vlm.errors import DataError
from vlm.files import json_lines, read_json

NAMED = 5
"""Offenders that an error names; it counts the rest."""


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


def read_records(
    file: Path, required: Iterable[str] = (), key: str | None = None
) -> Iterator[Record]:
    """The objects of a file - JSON-lines, a JSON list, or the list under `key` of a JSON object -
    each with its place.

    Args:
        file: the file.
        required: keys that every object must have.
        key: where the list is, if the file holds one object.

    Raises:
        DataError: the file cannot be read or holds no object, something in it is none, or a key is
            missing; names the place.
    """
    required = list(required)
    start = head(file)
    if key is not None and not start.startswith("["):
        whole = read_json(file)
        if not isinstance(whole, dict) or not isinstance(whole.get(key), list):
            raise DataError(f"{file}: a list of objects under {key!r} is needed")
        listed = numbered(file, "record", enumerate(whole[key], start=1))
    elif start.startswith("["):
        listed = numbered(file, "record", enumerate(read_json(file), start=1))
    else:
        listed = numbered(file, "line", json_lines(file))
    empty = True
    for where, content in listed:
        empty = False
        if not isinstance(content, dict):
            raise DataError(f"{where}: a JSON object is needed, not {type(content).__name__}")
        require(where, required, content)
        yield Record(where, content, content.get("split"))
    if empty:
        raise DataError(f"{file} is empty: it needs one JSON object a line, or a list of them")


def numbered(file: Path, unit: str, values: Iterable[tuple[int, Any]]) -> Iterator[tuple[str, Any]]:
    """Values with their place in the file."""
    for number, value in values:
        yield f"{file}, {unit} {number}", value


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


def by_id(file: Path, found: Iterable[dict[str, Any]], *names: str) -> dict[Any, dict[str, Any]]:
    """Objects of a file by their id, in their order.

    Args:
        file: that they are from, for messages.
        found: the objects.
        names: of the key that is the id; the first of them that an object has.

    Raises:
        DataError: an object without id, or an id that comes twice.
    """
    listed = list(found)
    numbers = [next((one[name] for name in names if name in one), None) for one in listed]
    without = [place for place, number in enumerate(numbers, start=1) if not is_id(number)]
    wanted = " or ".join(f"'{name}'" for name in dict.fromkeys(names))
    refuse(file, without, f"no {wanted}", "entries")
    twice = [number for number, count in Counter(numbers).items() if count > 1]
    refuse(file, twice, f"'{names[0]}' twice", "ids")
    return dict(zip(numbers, listed, strict=True))


def is_id(value: Any) -> bool:
    """Whether it can tell questions apart."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def refuse(file: Path, offenders: Sequence[Any], what: str, of: str = "questions") -> None:
    """Raises:
    DataError: there are offenders; names the first and counts them.
    """
    if offenders:
        named = ", ".join(map(str, offenders[:NAMED]))
        more = f" and {len(offenders) - NAMED:,} more" if len(offenders) > NAMED else ""
        raise DataError(f"{file}: {len(offenders):,} {of} with {what}: {named}{more}")


def require_same(file: Path, given: Collection[Any], asked: Collection[Any], what: str) -> None:
    """Checks that there is exactly one for each question.

    Raises:
        DataError: names the first that are missing, or that belong to no question.
    """
    refuse(file, [number for number in asked if number not in given], f"no {what}")
    unknown = [number for number in given if number not in asked]
    refuse(file, unknown, "no such question", f"{what}s")


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
        SkipSample: no such photo, or a path that leaves the folder.
    """
    for name in names:
        if not isinstance(name, str) or not name:
            raise SkipSample("image is not a path", repr(name)[:100])
        if leaves(name):
            raise SkipSample("image path leaves its folder", name)
        for root in (folder / "images", folder) if images is None else (images,):
            # os.path.isfile, unlike Path's own, is False for names that no file system could hold.
            if os.path.isfile(root / name):
                return FilePhoto(root / name)
    raise SkipSample("missing image", " or ".join(map(str, names)))


def leaves(name: str) -> bool:
    """Whether a path leaves the folder that it starts from."""
    return bool(Path(name).anchor) or ".." in Path(name).parts

"""Records: the objects of a file with their places, and the photos that they name."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from vlm.data.photos import FilePhoto, Photo, UrlPhoto
from vlm.data.sample import SkipSample
from vlm.data.source import DataSource
from vlm.errors import DataError, shortened
from vlm.files import json_lines, json_list, read_json, unpacked

NAMED = 5
"""Offenders that an error names; it counts the rest."""


class Record(NamedTuple):
    """What one sample is made of, as its format has it, with its place for messages, and the part
    of the data that it belongs to, if any."""

    where: str
    content: Any
    split: Any = None


def head(file: Path) -> str:
    """The first 64 KiB of a text file, spaces in front removed."""
    with unpacked(file) as opened:
        return opened.read(1 << 16).decode("utf-8-sig", errors="replace").lstrip()


def read_records(
    file: Path, required: Iterable[str] = (), key: str | None = None
) -> Iterator[Record]:
    """The objects of a file - JSON-lines, a JSON list, or the list under `key` of a JSON object -
    each with its place, which a DataError names for what is none or lacks a required key."""
    if head(file).startswith("["):
        yield from _objects(file, "record", enumerate(json_list(file), start=1), required)
    elif key is None:
        yield from _objects(file, "line", json_lines(file), required)
    else:
        (found,) = read_lists(file, **{key: required})
        yield from found


def read_lists(file: Path, **required: Iterable[str]) -> list[Iterator[Record]]:
    """The lists under these keys of one JSON object, which is read once, see `read_records`."""
    whole = read_json(file)
    for key in required:
        if not isinstance(whole, dict) or not isinstance(whole.get(key), list) or not whole[key]:
            raise DataError(f"{file}: a list of objects under {key!r} is needed")
    return [
        _objects(file, "record", enumerate(whole[key], start=1), keys)
        for key, keys in required.items()
    ]


def read_named(file: Path, key: str | None = None) -> dict[str, dict[str, Any]]:
    """The objects that a file's JSON object has by name, or that the one under `key` in it has."""
    whole = read_json(file)
    found = whole.get(key) if isinstance(whole, dict) and key else whole
    where = f" under {key!r}" if key else ""
    if not whole or not isinstance(found, dict):
        raise DataError(f"{file}: an object of objects by their ids is needed{where}")
    wrong = [name for name, one in found.items() if not isinstance(one, dict)]
    refuse(file, wrong, "no object", "entries")
    return found


def _objects(
    file: Path, unit: str, listed: Iterable[tuple[int, Any]], required: Iterable[str]
) -> Iterator[Record]:
    required, number = list(required), 0
    for number, content in listed:
        where = f"{file}, {unit} {number}"
        if not isinstance(content, dict):
            raise DataError(f"{where}: a JSON object is needed, not {type(content).__name__}")
        if required:
            require(where, required, content)
        yield Record(where, content, content.get("split"))
    if number == 0:
        raise DataError(f"{file} is empty: it needs one JSON object a line, or a list of them")


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and in the folders in it, by their paths. Links are followed; a folder
    that several of them lead to is read once."""

    def unreadable(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error

    files: list[Path] = []
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
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
    """Objects of a file by their id, the first of the named keys that each has, in their order; a
    DataError for one without id, or an id that comes twice, be it as number and as text."""
    listed = list(found)
    numbers = [next((one[name] for name in names if name in one), None) for one in listed]
    without = [place for place, number in enumerate(numbers, start=1) if not is_id(number)]
    wanted = " or ".join(f"'{name}'" for name in dict.fromkeys(names))
    refuse(file, without, f"no {wanted}", "entries")
    twice = [number for number, count in Counter(map(str, numbers)).items() if count > 1]
    refuse(file, twice, f"'{names[0]}' twice", "ids")
    return dict(zip(numbers, listed, strict=True))


def is_id(value: Any) -> bool:
    """Whether it can tell questions apart."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def refuse(file: Path, offenders: Sequence[Any], what: str, of: str = "questions") -> None:
    """A DataError if there are offenders; names the first and counts them."""
    if offenders:
        named = ", ".join(map(str, offenders[:NAMED]))
        more = f" and {len(offenders) - NAMED:,} more" if len(offenders) > NAMED else ""
        raise DataError(f"{file}: {len(offenders):,} {of} with {what}: {named}{more}")


def require(where: str, expected: Iterable[str], found: Iterable[str]) -> None:
    """A DataError if keys or columns are missing: says what was found and what was expected."""
    expected, found = list(expected), list(found)
    missing = [name for name in expected if name not in found]
    if missing:
        raise DataError(
            f"{where}: {', '.join(missing)} missing; "
            f"found {', '.join(found) or 'nothing'}, expected {', '.join(expected)}"
        )


def photos_at(source: DataSource, images: Any) -> tuple[list[Any], tuple[Photo, ...]]:
    """What a row has for images, one or several, as a list, and the photos that they are, see
    `photo_at`."""
    images = images if isinstance(images, list) and images else [images]
    return images, tuple(photo_at(source, image) for image in images)


def photo_at(source: DataSource, *names: Any) -> Photo:
    """The photo that a record names by a path, a `file://` or a `data:` URL; of several names, the
    first that is there; a photo is itself. Paths start from `images`; if that is None, from the
    source's folder or `images` in it. A SkipSample if there is no such photo, or its path leaves
    the folder and the source does not allow that."""
    roots = roots_of(source.path, source.images)
    for name in names:
        if not isinstance(name, str) or not name:
            if isinstance(name, Photo):
                return name
            raise SkipSample("image is not a path", repr(name))
        if name[:5].lower() == "data:":
            return UrlPhoto(name)
        if name[:4].lower() == "http" and re.match("https?://", name, re.IGNORECASE):
            raise SkipSample("image is a web address", f"{name}: fetch it, and name its file")
        is_url = name[:7].lower() == "file://"
        path = unquote(name[7:]).removeprefix("localhost") if is_url else name
        if leaves(path) and not source.outside:
            raise SkipSample("image path leaves its folder", f"{name}: `outside: true` allows it")
        for root in roots:
            # os.path.isfile, unlike Path's own, is False for names that no file system could hold.
            if os.path.isfile(file := os.path.join(root, path)):
                return FilePhoto(Path(file) if "//" in file or "./" in file else file)
    named = " or ".join(shortened(name, 100) for name in names)
    hint = "`images` says where photos are"
    lacking = [os.path.dirname(os.path.join(root, path)) or "." for root in roots]
    raise SkipSample("missing image", f"{named} under {roots[-1] or '.'}: {hint}", lacking)


@lru_cache
def roots_of(path: str, images: Path | None) -> tuple[str, ...]:
    """The folders that a source's paths start from, the current one being ""; kept, since each of
    its photos asks."""
    folder = Path(path) if os.path.isdir(path) else Path(path).parent
    roots = (folder / "images", folder) if images is None else (images,)
    return tuple("" if str(root) == "." else str(root) for root in roots)


def changed(folder: str) -> int | None:
    """When something came into a folder or left it, in nanoseconds; None if it is not there."""
    try:
        return os.stat(folder).st_mtime_ns
    except (OSError, ValueError):
        return None


def leaves(name: str) -> bool:
    """Whether a path leaves the folder that it starts from."""
    # Parsing each would take a tenth of what reading does.
    if name[:1] not in ("/", "\\") and ":" not in name and ".." not in name:
        return False
    return bool(Path(name).anchor) or ".." in Path(name).parts

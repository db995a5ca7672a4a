"""WebDataset shards (Aizman et al. 2019): uncompressed tar files in which the members of a sample
follow each other and share their name up to the first dot: `0001.jpg`, `0001.txt`.

Captions are the lines of `.txt` or, where there is none, a key of `.json`; questions and answers
are keys of `.json`. Only the headers and the texts of a shard are read, once; photos are then read
from where they lie, in any order and by any process.
"""

import glob
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from train.data.columns import sample_of, text_columns
from train.data.files import Record, require
from train.data.photos import ENDINGS, TarPhoto
from train.data.sample import Sample, Unusable, captioned
from train.data.sidecar import lines_of
from train.data.source import DataSource
from vlm.errors import DataError

MAX_TEXT = 1 << 20
"""Longest text of a sample, in bytes."""

Members = dict[str, TarPhoto]
"""Where the members of one sample lie, by ending."""


def records(source: DataSource) -> Iterator[Record]:
    """The samples of all shards.

    Raises:
        DataError: no shard there, or one that cannot be read or is compressed.
    """
    for shard in shards(source.path):
        for key, members in groups(shard):
            yield Record(f"{shard}:{key}", members)


def shards(pattern: str) -> list[Path]:
    """The tar files that a path stands for: itself, those in a folder, `shard-{000..011}.tar` or
    `shard-*.tar`.

    Raises:
        DataError: there are none, or not all of those that the braces name.
    """
    path = Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(path.rglob("*.tar"))
    found = []
    for name in expand(pattern):
        matches = sorted(glob.glob(name))
        if not matches:
            raise DataError(f"no tar shard {name}")
        found += map(Path, matches)
    return found


def expand(pattern: str) -> list[str]:
    """Writes out numbers in braces.

    >>> expand("{08..10}.tar")
    ['08.tar', '09.tar', '10.tar']
    """
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if braces is None:
        return [pattern]
    first, last = braces.groups()
    names = []
    for number in range(int(first), int(last) + 1):
        digits = str(number).zfill(len(first))
        names += expand(f"{pattern[: braces.start()]}{digits}{pattern[braces.end() :]}")
    return names


def groups(shard: Path) -> Iterator[tuple[str, Members]]:
    """The samples of a shard: their key and their members.

    Raises:
        DataError: it cannot be read, or is compressed.
    """
    key, members = "", Members()
    try:
        with tarfile.open(shard, mode="r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                stem, _, ending = path.name.partition(".")
                if not member.isfile() or not stem:
                    continue
                own = str(path.with_name(stem))
                if own != key and members:
                    yield key, members
                    members = Members()
                key = own
                place = TarPhoto(shard, member.name, member.offset_data, member.size)
                members[f".{ending.lower()}"] = place
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"cannot read {shard}: {error}: shards are uncompressed tar") from error
    if members:
        yield key, members


def sample(source: DataSource, where: str, members: Members) -> Sample:
    """One sample of a shard.

    Raises:
        DataError: its JSON lacks a key that the config names.
        Unusable: no image or several, or no text.
    """
    photos = [ending for ending in members if ending in ENDINGS]
    if len(photos) != 1:
        raise Unusable("several images" if photos else "missing image", ", ".join(members))
    photo = members[photos[0]]
    if source.columns.question is None and ".txt" in members:
        return captioned(where, photo, lines_of(_text(members[".txt"])), source.questions)
    if ".json" not in members:
        raise Unusable("no text beside the photo", f"found {', '.join(members)}")
    record = _record(members[".json"])
    require(where, text_columns(source.columns), record)
    return sample_of(source, where, photo, record)


def _record(member: TarPhoto) -> dict[str, Any]:
    try:
        record = json.loads(_text(member))
    except (ValueError, RecursionError) as error:
        raise Unusable("text is not JSON", f"{member.name}: {error}") from error
    if not isinstance(record, dict):
        raise Unusable("text is not JSON", f"{member.name}: no object")
    return record


def _text(member: TarPhoto) -> str:
    if member.size > MAX_TEXT:
        raise Unusable("text is too large", f"{member.name}: {member.size} bytes")
    try:
        return member.data().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unusable("caption is not text", f"{member.name}: {error}") from error

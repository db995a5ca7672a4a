"""WebDataset shards (Aizman et al. 2019): uncompressed tar files in which the members of a sample
follow each other and share their name up to the first dot: `0001.jpg`, `0001.txt`.

Captions are the lines of `.txt` or, where there is none, a key of `.json`; questions and answers
are keys of `.json`. Only the headers and the texts of a shard are read, once; photos are then read
from where they lie, in any order and by any process.
"""

import glob
import os
import re
import tarfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from vlm.data.captions import lines_of
from vlm.data.photos import ENDINGS, TarPhoto
from vlm.data.records import Record, files_in, require
from vlm.data.sample import Sample, SkipSample, captioned
from vlm.data.source import DataSource
from vlm.data.table import row_sample
from vlm.errors import DataError
from vlm.files import parse_json

MAX_TEXT = 1 << 20
"""Longest text of a sample, in bytes."""


def shard_records(source: DataSource) -> Iterator[Record]:
    """The samples of all shards."""
    return chain.from_iterable(map(groups, shards(source.path)))


def shards(pattern: str) -> list[Path]:
    """The tar files that a path stands for: itself, those in a folder, `shard-{000..011}.tar` or
    `shard-*.tar`; a DataError if there are none, or not all of those that the braces name."""
    path = Path(pattern)
    # os.path's, unlike Path's own, are False for what may not be looked at.
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        return [file for file in files_in(path) if file.suffix.lower() == ".tar"]
    found = []
    for name in expand(pattern):
        matches = sorted(glob.glob(name))
        if not matches:
            raise DataError(f"no tar shard {name}")
        found += map(Path, matches)
    return found


def expand(pattern: str) -> list[str]:
    """Writes out numbers in braces: `{08..10}.tar` -> `08.tar`, `09.tar`, `10.tar`."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if braces is None:
        return [pattern]
    first, last = braces.groups()
    names = []
    for number in range(int(first), int(last) + 1):
        digits = str(number).zfill(len(first))
        names += expand(f"{pattern[: braces.start()]}{digits}{pattern[braces.end() :]}")
    return names


def groups(shard: Path) -> Iterator[Record]:
    """The samples of a shard, each as the endings of its members, in lower case, and where they
    lie; a DataError if it is compressed, damaged or cut off."""
    key = ""
    members: list[tuple[str, TarPhoto]] = []
    try:
        with tarfile.open(shard, mode="r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                stem, _, ending = path.name.partition(".")
                if not member.isfile() or not stem:
                    continue
                own = str(path.with_name(stem))
                if own != key and members:
                    yield Record(f"{shard}:{key}", members)
                    members = []
                key = own
                place = TarPhoto(shard, member.name, member.offset_data, member.size)
                members.append((f".{ending.lower()}", place))
            _check_end(shard, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"cannot read {shard}: {error}: shards are uncompressed tar") from error
    if members:
        yield Record(f"{shard}:{key}", members)


def _check_end(shard: Path, end: int) -> None:
    """Checks that an archive ends behind its last member, at byte `end`, with a block of zeros and
    nothing else behind it: `tarfile` takes a damaged header, or none at all, for the end."""
    with shard.open("rb") as opened:
        opened.seek(end)
        block = opened.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or any(block):
            raise DataError(
                f"{shard} is damaged or cut off at byte {end}: neither a member nor the end of the "
                "archive is there; get it again"
            )
        while behind := opened.read(1 << 16):
            if any(behind):
                raise DataError(
                    f"{shard} is damaged or cut off at byte {end}: the archive ends there, and "
                    "more follows; give each of several archives a file of its own"
                )


def shard_sample(source: DataSource, record: Record) -> Sample:
    """One photo with the text beside it."""
    members = record.content
    found = dict(members)
    if len(found) < len(members):
        names = ", ".join(member.member for _, member in members)
        raise SkipSample("several members of one ending", names)
    photos = [ending for ending in found if ending in ENDINGS]
    if len(photos) != 1:
        raise SkipSample("several images" if photos else "missing image", ", ".join(found))
    photo = found[photos[0]]
    if source.columns.question is None and ".txt" in found:
        return captioned(record.where, photo, lines_of(_text(found[".txt"])), source.questions)
    if ".json" not in found:
        raise SkipSample("no text beside the photo", f"found {', '.join(found)}")
    row = _object(found[".json"])
    try:
        require(found[".json"].name, source.columns.texts, row)
    except DataError as error:
        raise SkipSample("key missing in the JSON", str(error)) from error
    return row_sample(source, record.where, photo, row)


def _object(member: TarPhoto) -> dict[str, Any]:
    try:
        content = parse_json(member.name, _text(member).encode())
    except DataError as error:
        raise SkipSample("text is not JSON", str(error)) from error
    if not isinstance(content, dict):
        raise SkipSample("text is not JSON", f"{member.name}: no object")
    return content


def _text(member: TarPhoto) -> str:
    if member.size > MAX_TEXT:
        raise SkipSample("text is too large", f"{member.name}: {member.size} bytes")
    try:
        return member.data().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SkipSample("caption is not text", f"{member.name}: {error}") from error

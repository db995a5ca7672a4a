"""WebDataset shards (Aizman et al. 2019): uncompressed tar files in which the members of a sample
follow each other and share their name up to the first dot: `0001.jpg`, `0001.txt`.

A caption is the text of `.txt` or `.caption` or, where there is none or `columns` are named, a key
of `.json`; so are questions, answers and conversations. Only the headers and the texts of a shard
are read, once; photos are then read from where they lie, in any order and by any process.
"""

import glob
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from vlm.data.captions import TEXTS, captioned, text_captions
from vlm.data.columns import keys_of
from vlm.data.photos import ENDINGS, TarPhoto
from vlm.data.records import Record, files_in
from vlm.data.rows import row_sample
from vlm.data.sample import Sample, SkipSample
from vlm.data.source import DataSource
from vlm.errors import DataError
from vlm.files import parse_json

MAX_TEXT = 1 << 20
"""Longest text of a sample, in bytes."""


def shard_records(source: DataSource) -> Iterator[Record]:
    """The samples of all shards, each as the endings of its members and where they lie."""
    for shard in shards(source.path):
        for key, group in groupby(members(shard), key=itemgetter(0)):
            yield Record(f"{shard}:{key}", [(ending, place) for _, ending, place in group])


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
    start, *rest = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    names = [start]
    for first, last, text in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        names = [f"{name}{number}{text}" for name in names for number in numbers]
    return names


def members(shard: Path) -> Iterator[tuple[str, str, TarPhoto]]:
    """The members of a shard: the key of the sample, the ending in lower case, and where it lies; a
    DataError if the shard is compressed, damaged or cut off."""
    try:
        with tarfile.open(shard, mode="r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                stem, _, ending = path.name.partition(".")
                if member.isfile() and stem:
                    place = TarPhoto(shard, member.name, member.offset_data, member.size)
                    yield str(path.with_name(stem)), f".{ending.lower()}", place
            _check_end(shard, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"cannot read {shard}: {error}: shards are uncompressed tar") from error


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
    found = dict(record.content)
    if len(found) < len(record.content):
        names = ", ".join(place.member for _, place in record.content)
        raise SkipSample("several members of one ending", names)
    photos = [ending for ending in found if ending in ENDINGS]
    if len(photos) != 1:
        raise SkipSample("several images" if photos else "missing image", ", ".join(found))
    photo = found[photos[0]]
    texts = [found[ending] for ending in TEXTS if ending in found]
    if texts and source.columns.text is None and source.columns.question is None:
        return captioned(source, record.where, (photo,), text_captions(_text(texts[0])))
    if ".json" not in found:
        raise SkipSample("no text beside the photo", f"found {', '.join(found)}")
    # Beside the JSON lies its photo: no key names it.
    source = replace(source, columns=replace(source.columns, image=None))
    row = {**_object(found[".json"]), "image": photo}
    try:
        keys = keys_of(found[".json"].member, source.columns, row)
    except DataError as error:
        raise SkipSample("key missing in the JSON", str(error)) from error
    return row_sample(source, Record(record.where, (row, keys)))


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

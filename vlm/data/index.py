"""Indexes of large sources: their samples on the disk, checked once, so that no later start reads
the source again and no process holds it in memory.

    sources/KEY/
        samples.arrow     a row for each sample that can be used, memory-mapped
        source.json       what was read: the format, what is skipped and dropped, the fingerprint
        complete.json     the version, what identifies the files read, the SHA-256 of the two above

One process makes it while the others wait. One that is damaged, of another version or of files that
have changed is made anew.
"""

import hashlib
import json
import operator
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, astuple
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute, ipc

from vlm.data.formats import format_of
from vlm.data.hub import load_table
from vlm.data.outline import Outline, outline_of, sample_of
from vlm.data.parts import Read, batches, write_samples
from vlm.data.records import changed, files_in
from vlm.data.sample import Sample, Samples, Skipped
from vlm.data.shards import shards
from vlm.data.source import DataSource
from vlm.errors import DataError, WeightsError
from vlm.files import disk, make_once, sha256

VERSION = 1
"""Of what an index holds: another one is made anew."""

LARGE = 1 << 24
"""Bytes of a source that gets an index. A smaller one is read in two seconds, and has room in every
process: an index would only leave files in the cache."""

ENDS = 1 << 16
"""Bytes at each end of a file that identify it beside its size and times; not of those in a folder,
where opening every photo would take longer than all else."""

SAMPLES, SOURCE, COMPLETE = "samples.arrow", "source.json", "complete.json"


class IndexedSamples(Sequence[Sample]):
    """The samples of an index, each read when it is asked for. Can be pickled, and used after a
    fork."""

    def __init__(
        self, folder: Path, source: DataSource, digests: dict[str, str], fingerprint: str
    ) -> None:
        self._made_of = folder, source, digests, fingerprint
        if json.loads((folder / COMPLETE).read_bytes())["digests"] != digests:
            raise DataError(f"{source.path} has changed while it was in use: start again")
        table = ipc.open_file(pa.memory_map(str(folder / SAMPLES))).read_all()
        # Or what is wrong would be found by reading outside of the file.
        table.validate(full=True)
        self._trained, self._rest, self._lengths, self._photos = table.columns

    def __reduce__(self) -> tuple[Any, ...]:
        return IndexedSamples, self._made_of

    def __len__(self) -> int:
        return len(self._trained)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        at = operator.index(at)
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        return sample_of(self._trained[at].as_py(), self._rest[at].as_py(), self._photos_of)

    def outline(self) -> Outline:
        return Outline(
            self._lengths.to_numpy(),
            compute.list_value_length(self._photos).to_numpy(),
            compute.list_flatten(self._photos).to_numpy(),
            self._made_of[-1],
        )

    def _photos_of(self, path: str, column: str) -> Any:
        source = self._made_of[1]
        # ImageFolder's tables have no split: their folders are.
        split = source.split if path == source.path else None
        return column_of(path, source.subset, split, column)


@cache
def column_of(path: str, subset: str | None, split: str | None, column: str) -> Any:
    """The photos of a column of a Hugging Face data set, as `RowPhoto` has them."""
    table, _ = load_table(path, subset, split)
    return table.select_columns([column]).with_format("arrow")


def outline(usable: Sequence[Sample]) -> Outline:
    """What is known of samples without reading those that have an index."""
    return usable.outline() if isinstance(usable, IndexedSamples) else outline_of(usable)


def indexed(source: DataSource, read: Read) -> Samples | None:
    """What a source holds, by its index, which is made if need be; None for a source that is not
    large, or whose index the disk refuses, as a line on stderr then says."""
    identity, size = identify(source)
    if size < LARGE:
        return None
    # Slow to import, and few sources need it.
    from vlm.sources import cache_dir

    found: list[Samples] = []

    def whole(folder: Path) -> bool:
        found[:] = filter(None, [opened(folder, source, identity)])
        return bool(found)

    def build(folder: Path) -> None:
        print(f"{source.path} is read into an index, once", file=sys.stderr)
        write(folder, source, identity, size, read)

    try:
        folder = make_once(cache_dir() / "sources" / key_of(source), build, whole)
        if not found and not whole(folder):
            raise WeightsError(f"{folder} is not what was written")
        return found[0]
    except WeightsError as error:
        print(f"{source.path} is read into memory, without an index: {error}", file=sys.stderr)
        return None


def key_of(source: DataSource) -> str:
    """Of a source's place and all its settings that change what is read."""
    settings = asdict(source)
    for unread in ("weight", "augment", "self_critical"):
        del settings[unread]
    places = [os.path.abspath(each) for each in (source.path, source.images) if each is not None]
    text = json.dumps([places, settings], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def identify(source: DataSource) -> tuple[str, int]:
    """What changes whenever a file of a source does, and the bytes of these files; no bytes for a
    source that is not there."""
    if not os.path.exists(source.path):
        kind = format_of(source)
        if kind == "dataset":
            table, _ = load_table(source.path, source.subset, source.split)
            return table._fingerprint, table.data.nbytes
        if kind != "shards":
            return "", 0
    folder = os.path.isdir(source.path)
    files = files_in(Path(source.path)) if folder else shards(source.path)
    digest, total = hashlib.sha256(), 0
    for file in [*files, *filter(None, [source.annotations])]:
        with disk(f"cannot read {file}"):
            # A link to nothing is no error here: it is a photo that cannot be read.
            status = os.stat(file) if os.path.exists(file) else os.lstat(file)
            # Of these two times, only the first can be set back.
            told = f"{file} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n"
            digest.update(told.encode(errors="surrogatepass"))
            if not folder and status.st_size > 2 * ENDS:
                with file.open("rb") as opened:
                    digest.update(opened.read(ENDS))
                    opened.seek(-ENDS, os.SEEK_END)
                    digest.update(opened.read())
        total += status.st_size
    return digest.hexdigest(), total


def write(folder: Path, source: DataSource, identity: str, size: int, read: Read) -> None:
    """Reads a source into an empty folder."""
    found = write_samples(folder / SAMPLES, source, size, read)
    fingerprint = hashlib.sha256()
    for batch in batches(folder / SAMPLES):
        for trained in batch.column("trained"):
            fingerprint.update(trained.as_py() + b"\n")
    skipped = list(map(astuple, found.skipped))
    told = [found.format, skipped, found.dropped, found.lacking, fingerprint.hexdigest()]
    (folder / SOURCE).write_text(json.dumps(told))
    digests = {name: sha256(folder / name) for name in (SAMPLES, SOURCE)}
    complete = {"version": VERSION, "identity": identity, "digests": digests}
    (folder / COMPLETE).write_text(json.dumps(complete))


def opened(folder: Path, source: DataSource, identity: str) -> Samples | None:
    """What an index holds; None where it is to be made anew."""
    try:
        complete = json.loads((folder / COMPLETE).read_bytes())
        digests = {name: sha256(folder / name) for name in (SAMPLES, SOURCE)}
        if complete != {"version": VERSION, "identity": identity, "digests": digests}:
            return None
        kind, skipped, dropped, lacking, fingerprint = json.loads((folder / SOURCE).read_bytes())
        # Photos that were not there may have come since.
        if any(changed(where) != then for where, then in lacking.items()):
            return None
        usable = IndexedSamples(folder, source, digests, fingerprint)
    except (OSError, ValueError):
        return None
    skipped = [Skipped(*one) for one in skipped]
    return Samples(source, kind, usable, skipped, Counter(dropped), lacking)

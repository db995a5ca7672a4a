"""Patch tokens on the disk: data files of equal records, memory-mapped, and an index of what they
hold.

A record counts once the index (SQLite) names it, which happens when it is whole on the disk: what a
crash leaves behind the last of them is written over. Writers take turns by a lock, so that any
number of processes and runs can share a cache.
"""

import fcntl
import itertools
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from filelock import FileLock
from torch import Tensor

from vlm.errors import DataError
from vlm.files import sync

FILE_BYTES = 2**30
"""Largest data file, unless one record is larger. Mapped privately, one larger than the memory and
swap together would be refused by Linux."""

TABLES = """
CREATE TABLE IF NOT EXISTS features (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS photos (
    name TEXT PRIMARY KEY, version TEXT NOT NULL, digest BLOB NOT NULL
) WITHOUT ROWID;
"""


class FeatureStore:
    """The features of one tower, found by the digest of the encoded photo.

    Can be pickled, and used after a fork: each process opens the files for itself.

    Args:
        folder: of this tower.
        root: folder that holds the folders of several towers, or `folder` itself.
        description: what the tower is; a folder of another one is refused.
        shape: (N, D) of the patch tokens of a photo.
        dtype: float16 or bfloat16.
        max_bytes: bound of all data files in `root`; where they would go beyond, those of other
            towers are deleted first, the least recently used one first, but none that a process
            has open.

    Raises:
        DataError: a folder of another tower or of something else, damaged, or not to be written.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        description: Mapping[str, Any],
        shape: tuple[int, int],
        dtype: torch.dtype,
        max_bytes: int,
    ) -> None:
        self.folder, self.root = folder.absolute(), root.absolute()
        self.shape, self.dtype, self.max_bytes = shape, dtype, max_bytes
        self.record_bytes = shape[0] * shape[1] * dtype.itemsize
        self._per_file = max(1, FILE_BYTES // self.record_bytes)
        self._connections: dict[tuple[int, int], sqlite3.Connection] = {}
        self._mapped: dict[int, Tensor] = {}
        # Read back, so that a tuple is the list that it is in the file.
        self._in_use: TextIO | None = self._claim(json.loads(json.dumps(description)))
        with self._naming_errors():
            self._database.executescript(TABLES)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_connections": {}, "_mapped": {}, "_in_use": None}

    def digest_of(self, name: str, version: str) -> bytes | None:
        """The digest of a photo seen before, if it still has this version."""
        query = "SELECT digest FROM photos WHERE name = ? AND version = ?"
        return self._first(query, name, version)

    def number_of(self, digest: bytes) -> int | None:
        """Number of the record of a photo's features; None if they are not there.

        Raises:
            DataError: the index is damaged.
        """
        return self._first("SELECT number FROM features WHERE digest = ?", digest)

    def read(self, number: int) -> Tensor:
        """The features in a record, (N, D), a view of the memory-mapped file.

        Raises:
            DataError: the file is damaged.
        """
        file, place = divmod(number, self._per_file)
        if file not in self._mapped or place >= len(self._mapped[file]):
            self._mapped[file] = self._map(file, at_least=place + 1)
        return self._mapped[file][place]

    def add(
        self, features: Mapping[bytes, Tensor], photos: Sequence[tuple[str, str, bytes]]
    ) -> int:
        """Stores features, each (N, D) in the store's dtype on the CPU, by their digests, and the
        name, version and digest of photos.

        Returns:
            How many do not fit, which are the last ones.

        Raises:
            DataError: the disk refuses.
        """
        with self._naming_errors(), FileLock(self.root / "lock"):
            fresh = [digest for digest in features if self.number_of(digest) is None]
            fits = fresh[: self._room_for(len(fresh))]
            first = self._first("SELECT coalesce(max(number) + 1, 0) FROM features")
            self._write(first, [features[digest] for digest in fits])
            with self._database as database:
                database.executemany("INSERT INTO features VALUES (?, ?)", enumerate(fits, first))
                database.executemany("INSERT OR REPLACE INTO photos VALUES (?, ?, ?)", photos)
        return len(fresh) - len(fits)

    @property
    def data_bytes(self) -> int:
        """Size of this tower's data files."""
        return _data_bytes(self.folder)

    def _claim(self, description: dict[str, Any]) -> TextIO:
        """Makes the folder if it is not there, and marks it as in use while the file that is
        returned is open."""
        tower, partial = self.folder / "tower.json", self.folder / "tower.json.partial"
        ours = {"lock", partial.name}
        with self._naming_errors():
            there = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
            if tower.name not in there and set(there) - ours:
                raise DataError(
                    f"{self.folder} is no feature cache: it has other files and no {tower.name}; "
                    "choose another folder"
                )
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / "lock"):
                self.folder.mkdir(exist_ok=True)
                if not tower.is_file():
                    partial.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
                    sync(partial)
                    partial.rename(tower)
                    sync(self.folder)
                in_use = tower.open(encoding="utf-8")
                fcntl.flock(in_use, fcntl.LOCK_SH)
                os.utime(tower)  # when it was last used
            try:
                found = json.load(in_use)
            except ValueError as error:
                raise DataError(f"{tower} is damaged: delete {self.folder}") from error
        if found != description:
            raise DataError(
                f"{self.folder} is a cache of another tower: {_differences(found, description)}; "
                "choose another folder or delete it"
            )
        return in_use

    @property
    def _database(self) -> sqlite3.Connection:
        # Kept by process: one that came through a fork must not be used, nor even closed. And by
        # thread: two that use one at the same time disturb each other.
        user = os.getpid(), threading.get_ident()
        if user not in self._connections:
            self._connections[user] = sqlite3.connect(
                self.folder / "index.sqlite", timeout=600, check_same_thread=False
            )
        return self._connections[user]

    def _first(self, query: str, *values: object) -> Any:
        with self._naming_errors():
            row = self._database.execute(query, values).fetchone()
        return row and row[0]

    def _file(self, file: int) -> Path:
        return self.folder / f"{file:05d}.features"

    def _map(self, file: int, at_least: int) -> Tensor:
        path = self._file(file)
        count = path.stat().st_size // self.record_bytes if path.is_file() else 0
        if count < at_least:
            raise DataError(f"{path} is damaged or not there: delete {self.folder}")
        # Not shared: a change to the tensor must not reach the file.
        size = count * self.shape[0] * self.shape[1]
        mapped = torch.from_file(str(path), shared=False, size=size, dtype=self.dtype)
        return mapped.view(count, *self.shape)

    def _write(self, first: int, features: list[Tensor]) -> None:
        records = enumerate(features, first)
        for file, group in itertools.groupby(records, lambda one: one[0] // self._per_file):
            numbers, tensors = zip(*group, strict=True)
            # Not opened to append: what a crash left behind the last record is written over.
            path = self._file(file)
            created = not path.exists()
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
            with open(descriptor, "wb") as opened:
                opened.seek(numbers[0] % self._per_file * self.record_bytes)
                opened.write(torch.stack(tensors).view(torch.uint8).numpy())
                opened.flush()
                os.fsync(descriptor)
            if created:
                sync(self.folder)

    def _room_for(self, count: int) -> int:
        """How many of so many records fit, if need be in the place of other towers'."""
        room = self.max_bytes - _data_bytes(self.root)
        others = {path for path in self.root.glob("*/tower.json") if path.parent != self.folder}
        for other in sorted(others, key=lambda path: path.stat().st_mtime_ns):
            if room >= count * self.record_bytes:
                break
            with other.open() as opened:
                try:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                room += _data_bytes(other.parent)
                # Renamed first: after a crash, half a cache must not pass for one.
                evicted = self.root / ".evicted"
                shutil.rmtree(evicted, ignore_errors=True)
                other.parent.rename(evicted)
                shutil.rmtree(evicted)
        return max(0, min(count, room // self.record_bytes))

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"cannot use the feature cache {self.folder}: {reason}; make room or choose "
                "another folder, or train with the cache off"
            ) from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.folder} is damaged: delete it ({error})") from error


def _data_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.features"))


def _differences(there: object, here: dict[str, Any]) -> str:
    there = there if isinstance(there, dict) else {}
    keys = [key for key in here if there.get(key) != here[key]]
    # Weights always differ between towers; of the same one in name, nothing else does.
    keys = [key for key in keys if key != "weights"] or ["weights"]
    return ", ".join(f"{key} is {there.get(key)} there, {here[key]} here" for key in keys)

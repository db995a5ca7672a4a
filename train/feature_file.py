"""Patch tokens on the disk: a memory-mapped file of equal records, and an index of what they hold.

A record counts once the index (SQLite) names it, which happens when it is whole on the disk: what a
crash leaves behind the last of them is written over. Writers take turns by a lock, so that any
number of processes and runs can share a cache.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from vlm.errors import DataError
from vlm.files import read_json, sync, write_file

TABLES = """
CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS numbers ON records (number);
"""


class FeatureFile:
    """The features of one tower, found by keys; several keys may name one record.

    Can be pickled, and used after a fork: each process opens the files for itself.
    """

    def __init__(self, folder: Path, tower: dict[str, Any], max_bytes: int) -> None:
        self.folder, self.max_bytes = folder.absolute(), max_bytes
        self.shape = (tower["tokens"], tower["width"])
        self.dtype: torch.dtype = getattr(torch, tower["dtype"])
        self.record_bytes = self.shape[0] * self.shape[1] * self.dtype.itemsize
        self._file = self.folder / "patch_tokens.features"
        self._mapped: Any = ()
        self._connections: dict[tuple[int, int], sqlite3.Connection] = {}
        with self._naming_errors():
            # Read back, so that a tuple is the list that it is in the file.
            self._claim(json.loads(json.dumps(tower)))
            self._database.executescript(TABLES)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_connections": {}, "_mapped": ()}

    def number(self, key: bytes) -> int | None:
        """Of the record that a key names; None if there is none."""
        return self._first("SELECT number FROM records WHERE key = ?", key)

    def read(self, number: int) -> Tensor:
        """The features in a record (N, D)."""
        if number >= len(self._mapped):
            with self._naming_errors():
                count = self._file.stat().st_size // self.record_bytes
            if number >= count:
                raise DataError(f"{self._file} is damaged: delete {self.folder}")
            # Of numbers of two bytes: NumPy has no bfloat16.
            self._mapped = np.memmap(self._file, np.int16, "r", shape=(count, *self.shape))
        return torch.from_numpy(np.array(self._mapped[number])).view(self.dtype)

    def add(self, features: Mapping[bytes, Tensor], names: Mapping[bytes, bytes]) -> int:
        """Stores features (N, D), on the CPU in this file's dtype, by their keys, and further keys
        that name the record of another one. Returns how many features have no room: the last."""
        with self._naming_errors(), FileLock(self.folder / ".lock"):
            fresh = [key for key in features if self.number(key) is None]
            fits = fresh[: self.room // self.record_bytes]
            first = self._count
            if fits:
                with self._file.open("r+b") as opened:
                    opened.seek(first * self.record_bytes)
                    records = torch.stack([features[key] for key in fits])
                    opened.write(records.view(torch.uint8).numpy())
                    opened.flush()
                    os.fsync(opened.fileno())
            with self._database as database:
                rows = zip(fits, range(first, first + len(fits)), strict=True)
                database.executemany("INSERT INTO records VALUES (?, ?)", rows)
                name = "INSERT OR REPLACE INTO records SELECT ?, number FROM records WHERE key = ?"
                database.executemany(name, names.items())
        return len(fresh) - len(fits)

    @property
    def room(self) -> int:
        """Bytes that the features may still grow by."""
        return max(0, self.max_bytes - self._count * self.record_bytes)

    @property
    def _count(self) -> int:
        return self._first("SELECT coalesce(max(number) + 1, 0) FROM records")

    def _claim(self, tower: dict[str, Any]) -> None:
        """Makes the folder if it is not there."""
        description = self.folder / "tower.json"
        if any(self.folder.glob("[!.]*")) and not description.is_file():
            raise DataError(
                f"{self.folder} is no feature cache: it has other files and no {description.name}; "
                "choose another folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            if not description.is_file():
                write_file(description, json.dumps(tower, indent=2) + "\n")
            self._file.touch()
            sync(self.folder)
        try:
            found = read_json(description)
        except DataError as error:
            raise DataError(f"{description} is damaged: delete {self.folder}") from error
        if found != tower:
            raise DataError(
                f"{self.folder} is a cache of another tower: {_differences(found, tower)}; "
                "choose another folder or delete it"
            )

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

    def _first(self, query: str, *values: bytes) -> Any:
        with self._naming_errors():
            row = self._database.execute(query, values).fetchone()
        return row and row[0]

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"cannot use the feature cache {self.folder}: {reason}; make room, delete it or "
                "choose another folder, or train with the cache off"
            ) from error


def _differences(there: Any, here: dict[str, Any]) -> str:
    there = there if isinstance(there, dict) else {}
    keys = [key for key in here if there.get(key) != here[key]]
    # Weights always differ between towers; of the same one in name, nothing else does.
    if set(keys) <= {"weights"}:
        return f"weights is {str(there.get('weights'))[:12]} there, {here['weights'][:12]} here"
    keys = [key for key in keys if key != "weights"]
    return ", ".join(f"{key} is {there.get(key)} there, {here[key]} here" for key in keys)

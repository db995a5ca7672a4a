"""Samples of a source -> a table on the disk, by one process, or by several where each can pass
over what others read."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import astuple
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import pyarrow as pa
from pyarrow import ipc

from vlm.data.formats import format_of
from vlm.data.outline import Row, row_of
from vlm.data.sample import Sample, Samples, Skipped
from vlm.data.source import DataSource, Format

SCHEMA = pa.schema(
    {
        "trained": pa.large_binary(),
        "rest": pa.large_binary(),
        "length": pa.int64(),
        "photos": pa.list_(pa.uint64()),
    }
)
"""That of a `Row`."""

ROWS, BATCH = 4096, 1 << 24
"""Rows and bytes that are written together, at most."""

PARTED = 1 << 26
"""Bytes of a source that is read by several processes: a smaller one is read before these have
started."""

STREAMED: set[Format] = {"conversations", "captions", "table"}
"""Formats whose records cost little to pass over, in time and in memory."""

BLOCK = 256
"""Records that a process reads before those of the others come."""

MOST = 8
"""Processes: with more, each would do little but pass over records."""


class Read(Protocol):
    """Hands over each sample of a source that can be used, of the records whose numbers it owns,
    and adds all but those samples to what is found."""

    def __call__(
        self,
        found: Samples,
        keep: Callable[[Sample], None],
        own: Callable[[int], bool] | None = None,
    ) -> None: ...


def write_samples(file: Path, source: DataSource, size: int, read: Read) -> Samples:
    """Writes the samples of a source of so many bytes that can be used; gives the rest."""
    nothing, found = Samples(source, format_of(source)), None
    with pa.OSFile(str(file), "wb") as opened, ipc.new_file(opened, SCHEMA) as table:
        processes = min(MOST, cores())
        apart = size >= PARTED and source.limit is None and nothing.format in STREAMED
        if apart and processes > 1:
            found = write_parts(table, nothing, file.parent, read, processes)
        if found is not None:
            return found
        found, writer = nothing, RowWriter(table)

        def keep(sample: Sample) -> None:
            writer.add(sample)
            if len(writer.rows) == ROWS or writer.size > BATCH:
                writer.flush()

        read(found, keep)
        writer.flush()
    return found


def write_parts(
    table: ipc.RecordBatchFileWriter, nothing: Samples, folder: Path, read: Read, processes: int
) -> Samples | None:
    """Writes samples that several processes read, each into a file of its own first. None if one of
    them fails or all find none: then one process alone tells why."""
    # Not through multiprocessing, which runs the caller's script anew or forks beside its threads.
    told = "import pickle, sys; f, *a = pickle.load(sys.stdin.buffer); f(*a)"
    command = [sys.executable, "-P", "-c", told]
    # The first is "" in a script from stdin: the folder where it runs.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    started: list[subprocess.Popen[bytes]] = []
    with TemporaryDirectory(dir=folder) as name, ExitStack() as stack:
        files = [Path(name, f"part-{number}") for number in range(processes)]
        for number, file in enumerate(files):
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append(process)
            call = write_part, file, nothing, read, number, processes, os.getpid()
            with suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(pickle.dumps(call))
        if any(process.wait() for process in started):
            return None
        return join_parts(table, nothing, files)


def write_part(
    file: Path, found: Samples, read: Read, number: int, processes: int, parent: int
) -> None:
    """Writes what one of several processes reads: a batch for each of its blocks, and beside it all
    else, with how many were skipped up to the end of each block. Ends when the process that started
    it, `parent`, has been killed."""
    skipped: list[int] = []
    with pa.OSFile(str(file), "wb") as opened, ipc.new_file(opened, SCHEMA) as table:
        writer = RowWriter(table)

        def flush(blocks: int) -> None:
            while len(skipped) < blocks:
                writer.flush()
                skipped.append(len(found.skipped))

        def own(record: int) -> bool:
            before, at = divmod(record // BLOCK, processes)
            if before > len(skipped) and os.getppid() != parent:
                sys.exit(1)
            flush(before)
            return at == number

        read(found, writer.add, own)
        flush(len(skipped) + 1)
    told = [list(map(astuple, found.skipped)), skipped, found.dropped, found.lacking]
    file.with_suffix(".json").write_text(json.dumps(told))


def join_parts(
    table: ipc.RecordBatchFileWriter, nothing: Samples, files: list[Path]
) -> Samples | None:
    """The blocks of several processes in the source's order; None if no sample is in them."""
    found = Samples(nothing.source, nothing.format)
    told = [json.loads(file.with_suffix(".json").read_bytes()) for file in files]
    blocks, rows = max(len(ends) for _, ends, *_ in told), 0
    parts = [batches(file) for file in files]
    for block in range(blocks):
        for part, (skipped, ends, *_) in zip(parts, told, strict=True):
            if (batch := next(part, None)) is not None:
                table.write(batch)
                rows += len(batch)
                start = ends[block - 1] if block else 0
                found.skipped += [Skipped(*one) for one in skipped[start : ends[block]]]
    for *_, dropped, lacking in told:
        found.dropped.update(dropped)
        found.lacking.update(lacking)
    return found if rows else None


class RowWriter:
    """Writes samples into a table, those together that are added between two flushes."""

    def __init__(self, table: ipc.RecordBatchFileWriter) -> None:
        self._table = table
        self.rows: list[Row] = []
        self.size = 0

    def add(self, sample: Sample) -> None:
        row = row_of(sample)
        self.rows.append(row)
        self.size += len(row.trained) + len(row.rest)

    def flush(self) -> None:
        columns = list(zip(*self.rows, strict=True)) or [()] * len(SCHEMA)
        arrays = list(map(pa.array, columns, SCHEMA.types))
        self._table.write(pa.record_batch(arrays, schema=SCHEMA))
        self.rows, self.size = [], 0


def batches(file: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a table, each read into memory: mapped, all of it would count as memory."""
    with pa.OSFile(str(file)) as opened:
        table = ipc.open_file(opened)
        yield from map(table.get_batch, range(table.num_record_batches))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

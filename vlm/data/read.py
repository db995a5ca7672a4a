"""Sources -> samples, each through the reader of its format."""

import os
from collections.abc import Iterator
from typing import Any, Protocol

from vlm.data import captions, coco, dataset, llava, questions, shards, sidecar, table, vqa
from vlm.data.formats import format_of
from vlm.data.records import Record
from vlm.data.sample import Sample, Samples, SkipSample, by_reason
from vlm.data.source import DataSource, Format
from vlm.errors import DataError


class Reader(Protocol):
    """A module that reads one format."""

    def records(self, source: DataSource) -> Iterator[Record]:
        """What each sample is made of, in the source's order.

        Raises:
            DataError: the source as a whole cannot be read.
        """
        ...

    def sample(self, source: DataSource, where: str, record: Any) -> Sample:
        """One sample.

        Raises:
            SkipSample: it is to be skipped.
        """
        ...


READERS: dict[Format, Reader] = {
    "llava": llava,
    "captions": captions,
    "questions": questions,
    "table": table,
    "sidecar": sidecar,
    "coco": coco,
    "vqa": vqa,
    "dataset": dataset,
    "shards": shards,
}


def read_sources(sources: list[DataSource]) -> list[Samples]:
    """The samples of each source; no photo is opened yet.

    Raises:
        DataError: a source that cannot be read, or has no sample that can be used.
    """
    return [read_source(source) for source in sources]


def read_whole(source: DataSource) -> list[Sample]:
    """The samples of a source of which none may be skipped, as evaluation needs them.

    Raises:
        DataError: as `read_sources`, or a sample that cannot be used; names the first.
    """
    found = read_source(source)
    if found.skipped:
        first, more = found.skipped[0], len(found.skipped) - 1
        rest = f" (and {more:,} more samples cannot be used)" if more else ""
        raise DataError(f"{first.where}: {first.reason} {first.detail}".strip() + rest)
    return found.usable


def read_source(source: DataSource) -> Samples:
    """The samples of one source, up to its limit.

    Raises:
        DataError: as in `read_sources`.
    """
    if source.images is not None and not os.path.isdir(source.images):
        raise DataError(f"no folder {source.images} for the images of {source.path}")
    found = Samples(source, format_of(source))
    reader = READERS[found.format]
    splits: set[str] = set()
    for record in reader.records(source):
        # JSON may have a number for it.
        split = None if record.split is None else str(record.split)
        if split is not None:
            splits.add(split)
        if source.split not in (None, split):
            continue
        try:
            found.usable.append(reader.sample(source, record.where, record.content))
        except SkipSample as error:
            found.skipped.append(error.at(record.where))
        if len(found.usable) == source.limit:
            break
    if found.usable:
        return found
    if found.skipped:
        first = found.skipped[0]
        raise DataError(
            f"{source.path}: no sample can be used: {by_reason(found.skipped)}; "
            f"the first is {first.where} {first.detail}".strip()
        )
    if source.split is not None:
        there = ", ".join(sorted(splits)) or "no splits"
        raise DataError(f"{source.path}: no sample in split {source.split!r}; there are: {there}")
    raise DataError(f"{source.path} holds no samples (read as {found.format})")

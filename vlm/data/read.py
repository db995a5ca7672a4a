"""Sources -> samples, each through the reader of its format."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from vlm.data import captions, conversations, dataset, instances, questions, rows, shards, table
from vlm.data.formats import METADATA, format_of
from vlm.data.index import indexed
from vlm.data.records import Record, changed, files_in, read_records
from vlm.data.sample import Sample, Samples, SkipSample, by_reason
from vlm.data.source import DataSource, Format
from vlm.data.vqa import vqa_records
from vlm.errors import DataError


class Reader(NamedTuple):
    """How one format is read: what each sample is made of, in the source's order, with a DataError
    if the source as a whole cannot be read; and one sample, with a SkipSample if it cannot be used.
    """

    records: Callable[[DataSource], Iterator[Record]]
    sample: Callable[[DataSource, Record], Sample]


def objects(source: DataSource) -> Iterator[Record]:
    return read_records(Path(source.path))


def imagefolder_records(source: DataSource) -> Iterator[Record]:
    """The rows of the metadata files of ImageFolder (Hugging Face `datasets`) in a folder, which
    name photos beside them by `file_name`. A folder inside is a split."""
    folder = Path(source.path)
    files = [file for file in files_in(folder) if file.name in METADATA]
    for first, second in pairwise(files):
        if first.parent == second.parent:
            raise DataError(f"{first} and {second.name}: a folder has one of them, join the two")
    for file in files:
        inner = replace(source, path=str(file), format=None, split=None)
        inner.format = format_of(inner)
        split = None if file.parent == folder else file.relative_to(folder).parts[0]
        for record in READERS[inner.format].records(inner):
            yield Record(record.where, (inner, record), split or record.split)


def imagefolder_sample(source: DataSource, record: Record) -> Sample:
    inner, row = record.content
    return READERS[inner.format].sample(inner, row)


READERS: dict[Format, Reader] = {
    "conversations": Reader(objects, conversations.conversation_sample),
    "captions": Reader(captions.caption_records, captions.caption_sample),
    "questions": Reader(questions.question_records, questions.question_sample),
    "table": Reader(table.table_records, table.table_sample),
    "sidecar": Reader(captions.folder_records, captions.folder_sample),
    "imagefolder": Reader(imagefolder_records, imagefolder_sample),
    "coco": Reader(captions.coco_records, captions.caption_sample),
    "instances": Reader(instances.instance_records, questions.photo_sample),
    "vqa": Reader(vqa_records, questions.photo_sample),
    "dataset": Reader(dataset.dataset_records, rows.row_sample),
    "shards": Reader(shards.shard_records, shards.shard_sample),
}


def read_sources(sources: list[DataSource]) -> list[Samples]:
    """The samples of each source; no photo is opened yet. A DataError for a source that cannot be
    read, or has no sample that can be used."""
    return [read_source(source) for source in sources]


def read_whole(source: DataSource) -> Sequence[Sample]:
    """The samples of a source as evaluation needs them: a DataError for any that cannot be used,
    which names the first."""
    found = read_source(source)
    lost = [one for one in found.usable if not all(w.startswith("unread") for w in one.dropped)]
    if lost:
        raise DataError(f"{lost[0].where}: cannot be used whole: {', '.join(lost[0].dropped)}")
    if found.skipped:
        more = len(found.skipped) - 1
        rest = f" (and {more:,} more cannot be used)" if more else ""
        raise DataError(f"{found.skipped[0]}{rest}")
    return found.usable


def read_source(source: DataSource) -> Samples:
    """The samples of one source, up to its limit, see `read_sources`."""
    if source.images is not None and not os.path.isdir(source.images):
        raise DataError(f"no folder {source.images} for the images of {source.path}")
    if (found := indexed(source, read)) is not None:
        return found
    usable: list[Sample] = []
    found = Samples(source, format_of(source), usable)
    read(found, usable.append)
    return found


def read(
    found: Samples, keep: Callable[[Sample], None], own: Callable[[int], bool] | None = None
) -> None:
    """Hands over each sample of a source that can be used, up to its limit, and adds the others to
    what is found. With `own`, reads only the records whose numbers it has."""
    source, reader, kept = found.source, READERS[found.format], 0
    splits: set[str] = set()
    for number, record in enumerate(reader.records(source)):
        if own is not None and not own(number):
            continue
        # JSON may have a number for it.
        split = None if record.split is None else str(record.split)
        if split is not None:
            splits.add(split)
        if source.split not in (None, split):
            continue
        try:
            sample = reader.sample(source, record)
        except SkipSample as error:
            found.skipped.append(error.at(record.where))
            found.lacking |= {folder: changed(folder) for folder in error.lacking}
            continue
        keep(sample)
        kept += 1
        if sample.dropped:
            found.dropped.update(sample.dropped)
        if kept == source.limit:
            break
    if not kept and own is None:
        raise DataError(_nothing(found, splits))


def _nothing(found: Samples, splits: set[str]) -> str:
    """Why a source, which has these splits, has no sample that can be used."""
    path, split = found.source.path, found.source.split
    if found.skipped:
        first = found.skipped[0]
        return (
            f"{path}: no sample can be used: {by_reason(found.skipped)}; "
            f"the first is {first.where.removeprefix(f'{path}, ')} {first.detail}".strip()
        )
    if split is not None:
        there = ", ".join(sorted(splits)) or "no splits"
        return f"{path}: no sample in split {split!r}; there are: {there}"
    return f"{path} holds no samples (read as {found.format})"

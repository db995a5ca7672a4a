"""Rows with a photo and its text in columns that the config names, a caption or several, or a
question and its answers: CSV and TSV with a header, and Hugging Face `datasets`.

Photos that are files, not in the table, are found as other formats' are. Only where a column of a
data set holds images is an absolute path taken as it is, since that is how `datasets` names the
files of a data set that it loads.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from vlm.data.hub import load_table
from vlm.data.photos import FilePhoto, Photo, RowPhoto
from vlm.data.records import Record, photo_at, require
from vlm.data.sample import KINDS, Sample, SkipSample, asked, captioned, kinds_of, texts_of
from vlm.data.source import DataSource
from vlm.errors import DataError
from vlm.files import disk


def table_records(source: DataSource) -> Iterator[Record]:
    path, first = source.path, 1
    expected = [source.columns.image, *source.columns.texts]
    expected += [] if source.split is None else ["split"]
    try:
        with disk(f"cannot read {path}"), open(path, encoding="utf-8-sig", newline="") as opened:
            separator = "\t" if "\t" in opened.readline() else ","
            opened.seek(0)
            # Strict, or a quote that is not closed would swallow all rows that follow.
            rows = csv.reader(opened, delimiter=separator, strict=True)
            header = next(rows, [])
            require(f"{path}: columns", expected, header)
            for name, count in Counter(header).items():
                if count > 1 and name in expected:
                    raise DataError(
                        f"{path}: columns: {count} are named {name}; "
                        f"found {', '.join(header)}; give each a name of its own"
                    )
            first = rows.line_num + 1
            for cells in rows:
                where, first = f"{path}, line {first}", rows.line_num + 1
                if cells:
                    row = dict(zip_longest(header, cells))
                    yield Record(where, row, row.get("split"))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}, from line {first}: not a table: {error}") from error


def table_sample(source: DataSource, record: Record) -> Sample:
    row = record.content
    if None in row or None in row.values():
        raise SkipSample("row and header differ in length")
    photo = photo_at(Path(source.path).parent, source.images, row[source.columns.image])
    return row_sample(source, record.where, photo, row)


def dataset_records(source: DataSource) -> Iterator[Record]:
    """The rows of a data set's split; photos are read as they are stored."""
    # Slow to import, and few sources need it.
    from datasets import Image, Value

    table, split = load_table(source.path, split=source.split)
    image, texts = source.columns.image, source.columns.texts
    require(f"{source.path}: columns", [image, *texts], table.column_names)
    kind = table.features[image]
    photos = table.select_columns([image])
    encoded = isinstance(kind, dict) and {"bytes", "path"} <= kind.keys()
    binary = kind in (Value("binary"), Value("large_binary"))
    if kind in (Value("string"), Value("large_string")):
        found = (row[image] for row in photos)
    elif encoded or binary or isinstance(kind, Image):
        # Decoded, every photo would be opened while only its text is looked at.
        found = _photos(source.path, photos.cast_column(image, Image(decode=False)), image)
    else:
        raise DataError(
            f"{source.path}: column {image} holds {kind}; expected images, or paths as text"
        )
    kinds = [name for name in KINDS if name in table.column_names and name not in texts]
    rows = zip(table.select_columns([*texts, *kinds]), found, strict=True)
    for number, (row, photo) in enumerate(rows):
        yield Record(f"{source.path}, row {number}", (photo, row), split)


def _photos(path: str, photos: Any, column: str) -> Iterator[Photo | str]:
    """The photos in a column, or the relative path of each that is a file; none is read."""
    from pyarrow.compute import is_null, struct_field

    row = 0
    for part in photos.with_format("arrow").iter(batch_size=1000):
        files = struct_field(part[column], "path").to_pylist()
        outside = is_null(struct_field(part[column], "bytes")).to_pylist()
        for file, is_file in zip(files, outside, strict=True):
            if file is None or not is_file:
                yield RowPhoto(path, photos, column, row)
            else:
                yield FilePhoto(Path(file)) if os.path.isabs(file) else file
            row += 1


def dataset_sample(source: DataSource, record: Record) -> Sample:
    """One row of a data set; a path starts in its folder."""
    photo, row = record.content
    if not isinstance(photo, RowPhoto | FilePhoto):
        photo = photo_at(Path(source.path), source.images, photo)
    return row_sample(source, record.where, photo, row)


def row_sample(source: DataSource, where: str, photo: Photo, row: Mapping[str, Any]) -> Sample:
    """A photo with the text of a row."""
    first, *second = (row[name] for name in source.columns.texts)
    if not second:
        return captioned(where, photo, first, source.questions)
    answers = texts_of(second[0], "answer")
    conversations = (asked(first, answers, source),)
    return Sample(where, (photo,), conversations, answers=(answers,), kinds=(kinds_of(row),))

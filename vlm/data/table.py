"""Rows with a photo and its text in columns: CSV and TSV with a header."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

from vlm.data.columns import keys_of
from vlm.data.records import Record, require
from vlm.data.rows import row_sample, with_lists
from vlm.data.sample import Sample, SkipSample
from vlm.data.source import DataSource
from vlm.errors import DataError
from vlm.files import unpacked


def table_records(source: DataSource) -> Iterator[Record]:
    path, first = source.path, 1
    try:
        with unpacked(Path(path)) as opened:
            lines = io.TextIOWrapper(opened, encoding="utf-8-sig", newline="")
            head = lines.readline()
            separator = "\t" if "\t" in head else ","
            # Strict, or a quote that is not closed would swallow all rows that follow.
            rows = csv.reader(chain([head], lines), delimiter=separator, strict=True)
            header = next(rows, [])
            keys = keys_of(f"{path}: columns", source.columns, header)
            require(f"{path}: columns", [] if source.split is None else ["split"], header)
            for name, count in Counter(header).items():
                if count > 1 and name in (keys or ()):
                    raise DataError(
                        f"{path}: columns: {count} are named {name}; found {', '.join(header)}; "
                        "give each a name of its own"
                    )
            first = rows.line_num + 1
            for cells in rows:
                where, first = f"{path}, line {first}", rows.line_num + 1
                if cells:
                    row = dict(zip_longest(header, cells))
                    yield Record(where, (with_lists(row, keys), keys), row.get("split"))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}, from line {first}: not a table: {error}") from error


def table_sample(source: DataSource, record: Record) -> Sample:
    row, _ = record.content
    if None in row or None in row.values():
        raise SkipSample("row and header differ in length")
    return row_sample(source, record)

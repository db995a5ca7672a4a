"""CSV and TSV with a header: a column of image paths and one of captions, or of questions and of
answers."""

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from vlm.data.columns import sample_of, text_columns
from vlm.data.records import Record, photo_at, require
from vlm.data.sample import Sample, SkipSample
from vlm.data.source import DataSource
from vlm.errors import DataError


def records(source: DataSource) -> Iterator[Record]:
    """The rows of a table.

    Raises:
        DataError: the file cannot be read, lacks a column, or has two of one name; says which it
            has.
    """
    expected = [source.columns.image, *text_columns(source.columns)]
    expected += [] if source.split is None else ["split"]
    first = 1
    try:
        with open(source.path, encoding="utf-8-sig", newline="") as opened:
            separator = "\t" if "\t" in opened.readline() else ","
            opened.seek(0)
            # Strict, or a quote that is not closed would swallow all rows that follow.
            rows = csv.reader(opened, delimiter=separator, strict=True)
            header = next(rows, [])
            require(f"{source.path}: columns", expected, header)
            for name, count in Counter(header).items():
                if count > 1 and name in expected:
                    raise DataError(
                        f"{source.path}: columns: {count} are named {name}; "
                        f"found {', '.join(header)}; give each a name of its own"
                    )
            first = rows.line_num + 1
            for cells in rows:
                where, first = f"{source.path}, line {first}", rows.line_num + 1
                if cells:
                    row = dict(zip_longest(header, cells))
                    yield Record(where, row, row.get("split"))
    except OSError as error:
        raise DataError(f"cannot read {source.path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{source.path}, from line {first}: not a table: {error}") from error


def sample(source: DataSource, where: str, row: dict[str | None, str | None]) -> Sample:
    """One row.

    Raises:
        SkipSample: it has not as many cells as the header, its image is missing, or its text empty.
    """
    if None in row or None in row.values():
        raise SkipSample("row and header differ in length")
    photo = photo_at(Path(source.path).parent, source.images, row[source.columns.image])
    return sample_of(source, where, photo, row)

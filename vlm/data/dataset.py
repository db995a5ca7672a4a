"""Rows of Hugging Face `datasets`: Parquet files, saved data sets, those of the hub.

Photos that are files, not in the table, are found as other formats' are. Only where a column holds
images is an absolute path taken as it is, since that is how `datasets` names the files of a data
set that it loads.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

from vlm.data.columns import IMAGE, keys_of
from vlm.data.hub import load_table
from vlm.data.photos import FilePhoto, RowPhoto
from vlm.data.records import Record
from vlm.data.rows import with_lists
from vlm.data.source import DataSource
from vlm.errors import DataError


def dataset_records(source: DataSource) -> Iterator[Record]:
    """The rows of a data set's split, in which photos are read as they are stored, and a class is
    its name."""
    table, split = load_table(source.path, source.subset, source.split)
    names = table.column_names
    keys = keys_of(f"{source.path}: columns", source.columns, names)
    used = [keys.image] if keys else [source.columns.image] if source.columns.image else IMAGE
    stored = [name for name in names if name in used or _depth(table.features[name]) is not None]
    # Other images are a reason to skip a row, unless the config says which are meant.
    other = None if source.columns.image else "`columns: {image: NAME}` says which is the photo"
    images = [photos_in(source.path, table, n) if n in used else repeat(other) for n in stored]
    texts = table.select_columns([name for name in names if name not in stored])
    kinds = texts.features
    for name, kind in kinds.items():
        if getattr(kind, "decode", False):
            # Sound and video, which nobody reads.
            texts = texts.cast_column(name, replace(kind, decode=False))
    for number, (row, *cells) in enumerate(zip(texts, *images, strict=False)):
        row = {name: named(kinds[name], cell) for name, cell in row.items()}
        row |= zip(stored, cells, strict=True)
        yield Record(f"{source.path}, row {number}", (with_lists(row, keys), keys), split)


def named(kind: Any, cell: Any) -> Any:
    """A cell in which a class is its name."""
    # Slow to import, and few sources need it.
    from datasets import ClassLabel, LargeList, List

    if cell is None:
        return None
    if isinstance(kind, ClassLabel):
        return kind.names[cell] if cell in range(len(kind.names)) else None
    if isinstance(kind, List | LargeList):
        return [named(kind.feature, one) for one in cell]
    if isinstance(kind, dict):
        return {name: named(kind[name], one) for name, one in cell.items()}
    return cell


def photos_in(path: str, table: Any, column: str = "image") -> Iterator[Any]:
    """What each row has for images, a photo, the path of one, or a list of them; none is read."""
    # Slow to import, and few sources need it.
    from pyarrow.compute import is_null, list_flatten, list_value_length, struct_field
    from pyarrow.types import is_struct

    photos = table.select_columns([column])
    kind = table.features[column]
    depth = _depth(kind)
    if depth is None:
        if getattr(kind, "dtype", "string") not in ("string", "large_string", "null"):
            raise DataError(
                f"{path}: column {column} holds {kind}; expected images, or paths as text"
            )
        yield from (row[column] for row in photos)
        return
    # As it is stored: decoded, every photo would be opened while only its text is looked at.
    photos, row = photos.with_format("arrow"), 0
    for part in photos.iter(batch_size=1000):
        cells = part[column]
        counts = list_value_length(cells).to_pylist() if depth else [1] * len(cells)
        cells = list_flatten(cells) if depth else cells
        bare = not is_struct(cells.type)
        files = [None] * len(cells) if bare else struct_field(cells, "path").to_pylist()
        empty = is_null(cells if bare else struct_field(cells, "bytes")).to_pylist()
        flat = zip(files, empty, strict=True)
        for count in counts:
            found = []
            for place in range(count or 0):
                file, is_file = next(flat)
                if not is_file:
                    found.append(RowPhoto(path, photos, column, row, place if depth else None))
                else:
                    inside = file is None or not os.path.isabs(file)
                    found.append(file if inside else FilePhoto(Path(file)))
            yield found if depth else found[0]
            row += 1


def _depth(kind: Any) -> int | None:
    """0 for a column of encoded images, 1 for one of lists of them, None for others."""
    from datasets import Image, List, Value

    if isinstance(kind, List):
        return 1 if _depth(kind.feature) == 0 else None
    stored = isinstance(kind, dict) and {"bytes", "path"} <= kind.keys()
    binary = kind in (Value("binary"), Value("large_binary"))
    return 0 if stored or binary or isinstance(kind, Image) else None

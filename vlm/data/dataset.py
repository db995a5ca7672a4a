"""Hugging Face `datasets`: the id of one on the hub, or a folder that `save_to_disk` wrote or that
holds Parquet files. Columns are named in the config; photos are read as they are stored.

Photos that are files, not in the table, are found as other formats' are: a path starts in the
folder of the data set and stays inside. Only where the column holds images is an absolute path
taken as it is, since that is how `datasets` names the files of a data set that it loads.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm.data.columns import sample_of, text_columns
from vlm.data.hub import load_table
from vlm.data.photos import FilePhoto, Photo, RowPhoto
from vlm.data.records import Record, photo_at, require
from vlm.data.sample import Sample
from vlm.data.source import DataSource
from vlm.errors import DataError


def records(source: DataSource) -> Iterator[Record]:
    """The rows of a split.

    Raises:
        DataError: no such data set, split or column; says what there is.
    """
    # Slow to import, and few sources need it.
    from datasets import Image, Value

    table, split = load_table(source.path, split=source.split)
    image, texts = source.columns.image, text_columns(source.columns)
    require(f"{source.path}: columns", [image, *texts], table.column_names)
    kind = table.features[image]
    if kind in (Value("string"), Value("large_string")):
        for row, content in enumerate(table.select_columns([image, *texts])):
            yield Record(f"{source.path}, row {row}", (content[image], content), split)
        return
    encoded = isinstance(kind, dict) and {"bytes", "path"} <= kind.keys()
    binary = kind in (Value("binary"), Value("large_binary"))
    if not (encoded or binary or isinstance(kind, Image)):
        raise DataError(
            f"{source.path}: column {image} holds {kind}; expected images, or paths as text"
        )
    # Decoded, every photo would be opened while only its text is looked at.
    photos = table.select_columns([image]).cast_column(image, Image(decode=False))
    rows = zip(table.select_columns(texts), _files(photos, image), strict=True)
    for row, (content, file) in enumerate(rows):
        photo: Photo | str = RowPhoto(source.path, photos, image, row)
        if file is not None:
            photo = FilePhoto(Path(file)) if os.path.isabs(file) else file
        yield Record(f"{source.path}, row {row}", (photo, content), split)


def _files(photos: Any, column: str) -> Iterator[str | None]:
    """The path of each photo that is a file; None for those in the table, which are not read."""
    from pyarrow.compute import is_null, struct_field

    for part in photos.with_format("arrow").iter(batch_size=1000):
        cells = part[column]
        paths = struct_field(cells, "path").to_pylist()
        outside = is_null(struct_field(cells, "bytes")).to_pylist()
        yield from (path if out else None for path, out in zip(paths, outside, strict=True))


def sample(source: DataSource, where: str, record: tuple[Photo | Any, dict[str, Any]]) -> Sample:
    """One row.

    Raises:
        SkipSample: its photo is missing, or its text is no text.
    """
    photo, row = record
    if not isinstance(photo, RowPhoto | FilePhoto):
        photo = photo_at(Path(source.path), source.images, photo)
    return sample_of(source, where, photo, row)

"""Hugging Face `datasets`: the id of one on the hub, or a folder that `save_to_disk` wrote or that
holds Parquet files. Columns are named in the config; photos are read as they are stored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.data.columns import sample_of, text_columns
from train.data.files import Record, photo_at, require
from train.data.photos import RowPhoto
from train.data.sample import Sample
from train.data.source import DataSource
from vlm.errors import DataError


def records(source: DataSource) -> Iterator[Record]:
    """The rows of a split.

    Raises:
        DataError: no such data set, split or column; says what there is.
    """
    # Slow to import, and few sources need it.
    from datasets import Image, Value

    table, split = _load(source)
    image, texts = source.columns.image, text_columns(source.columns)
    require(f"{source.path}: columns", [image, *texts], table.column_names)
    kind = table.features[image]
    if kind == Value("string"):
        for row, content in enumerate(table.select_columns([image, *texts])):
            yield Record(f"{source.path}, row {row}", (content[image], content), split)
        return
    encoded = isinstance(kind, dict) and {"bytes", "path"} <= kind.keys()
    if not (encoded or isinstance(kind, Image) or kind == Value("binary")):
        raise DataError(
            f"{source.path}: column {image} holds {kind}; expected images, or paths as text"
        )
    # Decoded, every photo would be opened while only its text is looked at.
    photos = table.select_columns([image]).cast_column(image, Image(decode=False))
    for row, content in enumerate(table.select_columns(texts)):
        photo = RowPhoto(source.path, photos, image, row)
        yield Record(f"{source.path}, row {row}", (photo, content), split)


def _load(source: DataSource) -> tuple[Any, str | None]:
    """The table, and the name of its split if it has one."""
    import datasets

    folder = Path(source.path)
    saved = any((folder / f"dataset_{kind}.json").is_file() for kind in ("info", "dict"))
    load = datasets.load_from_disk if saved else datasets.load_dataset
    try:
        whole = load(source.path)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        here = "" if folder.exists() else "no such file or folder, and on the hub: "
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read the data set {source.path!r}: {here}{reason}") from error
    if isinstance(whole, datasets.Dataset):
        return whole, None if whole.split is None else str(whole.split)
    split = next(iter(whole)) if source.split is None and len(whole) == 1 else source.split
    if split not in whole:
        asked = "" if split is None else f"no split {split!r}; "
        raise DataError(f"{source.path}: {asked}name one of its splits: {', '.join(whole)}")
    return whole[split], split


def sample(source: DataSource, where: str, record: tuple[RowPhoto | Any, dict[str, Any]]) -> Sample:
    """One row.

    Raises:
        Unusable: its photo is missing, or its text is no text.
    """
    photo, row = record
    if not isinstance(photo, RowPhoto):
        photo = photo_at(Path(source.path), source.images, photo)
    return sample_of(source, where, photo, row)

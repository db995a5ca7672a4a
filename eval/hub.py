"""Benchmarks from the Hugging Face hub: a row for each question, its photo decoded when it is
looked at."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlm.data.dataset import photos_in
from vlm.data.hub import load_table
from vlm.data.photos import Photo
from vlm.data.records import require
from vlm.errors import DataError


class Row(NamedTuple):
    """What a question is made of.

    Attributes:
        content: as the hub has it, wherever it is from.
        image: on the hub, the first of several; of a file, the folder and the path in it; else
            encoded. None if there is none.
    """

    where: str
    content: dict[str, Any]
    image: Photo | tuple[Any, Any] | bytes | None


@dataclass(frozen=True)
class Hub:
    """Where a benchmark is on the hub.

    Attributes:
        splits: by our name of a split, the hub's.
        config: of the data set; None is its only one.
        same_image: column by which rows are about the same photo; None if each has its own.
        images: config of the photos, where they are apart, found by `same_image`, their `id`.
    """

    id: str
    splits: dict[str, str]
    config: str | None = None
    same_image: str | None = None
    images: str | None = None

    def rows(self, split: str) -> Iterator[Row]:
        """The rows of a split; those without an `id` have their number for one."""
        if split not in self.splits:
            raise DataError(f"{self.id} has no split '{split}': {', '.join(self.splits)}")
        data, _ = load_table(self.id, self.config, self.splits[split])
        table, first = data, {}
        if self.images is not None:
            table, _ = load_table(self.id, self.images, self.splits[split])
            first = {number: place for place, number in enumerate(table["id"])}
        if self.same_image is not None:
            require(f"{self.id}: columns", [self.same_image], data.column_names)
        require(f"{self.id}: columns", ["image"], table.column_names)
        cells = [cell if isinstance(cell, list) else [cell] for cell in photos_in(self.id, table)]
        images = [next((one for one in cell if isinstance(one, Photo)), None) for cell in cells]
        rows = data.remove_columns("image") if "image" in data.column_names else data
        for place, row in enumerate(rows):
            where = f"{self.id}, row {place}"
            key = place if self.same_image is None else row[self.same_image]
            if self.images is not None and key not in first:
                raise DataError(f"{where}: there is no image {key}")
            image = images[first.setdefault(key, place)]
            yield Row(where, {"id": str(place), **row}, image)

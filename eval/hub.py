"""Benchmarks from the Hugging Face hub, through `datasets`: a row for each question, its photo
decoded when it is looked at."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eval.question import Question, RowImage
from vlm.errors import DataError


@dataclass(frozen=True)
class Hub:
    """Where a benchmark is on the hub.

    Attributes:
        id: of the data set.
        splits: by our name of a split, the hub's.
        question: a row, its photo -> a question, or those that it holds.
        config: of the data set; None is its only one.
        same_image: column by which rows are about the same photo; None if each has its own.
        images: config of the photos, where they are apart, found by `same_image`, their `id`.
    """

    id: str
    splits: dict[str, str]
    question: Callable[[dict[str, Any], RowImage], Question | list[Question]]
    config: str | None = None
    same_image: str | None = None
    images: str | None = None

    def questions(self, split: str) -> list[Question]:
        """The questions of a split.

        Raises:
            DataError: no such split there, no connection, or rows that are not as expected.
        """
        if split not in self.splits:
            raise DataError(f"{self.id} has no split '{split}': {', '.join(self.splits)}")
        data = self.load(self.config, self.splits[split])
        photos = data if self.images is None else self.load(self.images, self.splits[split])
        first: dict[Any, int] = {}
        if self.images is not None:
            first = {number: place for place, number in enumerate(photos["id"])}
        rows = data.remove_columns("image") if "image" in data.column_names else data
        questions = []
        for place, row in enumerate(rows):
            try:
                key = place if self.same_image is None else row[self.same_image]
                at = first[key] if self.images is not None else first.setdefault(key, place)
                made = self.question(row, RowImage(photos, at))
                questions += made if isinstance(made, list) else [made]
            except (KeyError, TypeError, IndexError, ValueError) as error:
                raise DataError(
                    f"{self.id}, row {place}: not as it should be: {type(error).__name__} {error}"
                ) from error
        if not questions:
            raise DataError(f"{self.id}: no question in split '{split}'")
        return questions

    def load(self, config: str | None, split: str) -> Any:
        """A data set, downloaded if it is not there.

        Raises:
            DataError: it cannot be had.
        """
        import datasets

        try:
            return datasets.load_dataset(self.id, config, split=split)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            told = " ".join(str(error).split())
            raise DataError(f"cannot load {self.id} from the hub: {told}") from error

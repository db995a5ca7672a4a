"""What is asked, and what a benchmark is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from eval.metrics.scores import Scores
from vlm.errors import DataError, ImageError
from vlm.images import ImageSource, load_image

if TYPE_CHECKING:
    from eval.hub import Hub

NO_SPLITS = ("all",)
"""The splits of what has none."""


@dataclass(frozen=True)
class RowImage:
    """The photo in a row of a data set; of several, the first.

    Attributes:
        data: the data set.
        place: number of the row.
    """

    data: Any = field(compare=False, repr=False)
    place: int

    def open(self) -> Image.Image:
        """Decodes it.

        Raises:
            ImageError: there is none, or it cannot be decoded.
        """
        try:
            image = self.data[self.place]["image"]
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot read the image of row {self.place}: {error}") from error
        if isinstance(image, list):
            image = image[0] if image else None
        if not isinstance(image, Image.Image):
            raise ImageError(f"row {self.place} has no image")
        return image


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        id: no other question of the benchmark has it.
        image: what it is about; a path where the data has files, a row where it has rows.
        text: all that the model is asked, instructions included.
        answers: what is right, or what people answered; what it means is up to the metric.
        labels: its place in each breakdown, such as `answer_type`: `yes/no`.
        scored_as: the question as its scorer wants it; None where the answers are all it wants.
    """

    id: str
    image: ImageSource | RowImage
    text: str
    answers: tuple[str, ...]
    labels: dict[str, str] = field(default_factory=dict)
    scored_as: Any = None

    def photo(self) -> Image.Image:
        """The image as a model is shown it.

        Raises:
            ImageError: it cannot be read.
        """
        if isinstance(self.image, RowImage):
            return load_image(self.image.open())
        return load_image(self.image)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: where its questions are, and how answers are scored.

    Attributes:
        name: as `vlm eval` knows it.
        title: as people write it, with the metric.
        splits: that can be asked; the first if nothing is said.
        layout: what to put into its folder, for who has not got it; None if it needs no folder.
        load: folder and split -> questions.
        score: questions and an answer to each -> scores.
        max_tokens: longest answer.
        each: what one answer is worth, 0 to 1, for a running score; None where only all answers
            together have one.
        hub: where it is on the Hugging Face hub; None if it is not.
        folder: the name of its folder; None is that of the benchmark.
        file: of one's own, that it is; None for those with a folder.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    layout: str | None
    load: Callable[[Path, str], list[Question]]
    score: Callable[[list[Question], list[str]], Scores]
    max_tokens: int
    each: Callable[[Question, str], float] | None = None
    hub: "Hub | None" = None
    folder: str | None = None
    file: Path | None = None

    def questions(self, data: Path, split: str | None, from_hub: bool = False) -> list[Question]:
        """The questions of a split.

        Args:
            data: folder with a folder for each benchmark.
            split: None is the first.
            from_hub: take them from the hub instead.

        Raises:
            DataError: no such split, or the data is not there or not whole.
        """
        split = split or self.splits[0]
        if split not in self.splits:
            name = self.file or self.name
            if self.splits == NO_SPLITS:
                raise DataError(f"{name} has no splits: leave --split {split} out")
            raise DataError(f"{name} has no split '{split}': {', '.join(self.splits)}")
        if from_hub and self.layout is not None:
            if self.hub is None:
                raise DataError(f"{self.name} is not on the hub: put {self.layout} into a folder")
            return self.hub.questions(split)
        folder = data / (self.folder or self.name)
        if self.layout is not None and not folder.is_dir():
            hub = ", or take it from the hub with --hub" if self.hub else ""
            raise DataError(f"{self.name} is not in {data}: put {self.layout} into {folder}{hub}")
        questions = self.load(folder, split)
        if not questions:
            raise DataError(f"{folder}: no question in split '{split}'")
        return questions

"""A question of a benchmark, and the photo that it is about."""

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from vlm.errors import ImageError
from vlm.images import ImageSource, load_image


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

"""A question of a benchmark, and the photo that it is about."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image

from vlm.data.photos import Photo, decode
from vlm.errors import ImageError
from vlm.images import ImageSource, load_image

Shown = ImageSource | Photo
"""An image of a question: a path where the data has files, else where it lies in a row or a shard.
"""


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        id: no other question of the benchmark has it.
        image: that it is about, the first of several; None where there is none.
        text: all that the model is asked, instructions included.
        answers: what is right, or what people answered; what it means is up to the metric.
        labels: its place in each breakdown, such as `answer_type`: `yes/no`.
        scored_as: what its scorer needs besides.
        talk: where it is not the image and the text behind it, the conversation that it ends, in
            the form that `VisionLanguageModel.prompt` takes, with an image as above for each.
    """

    id: str
    image: Shown | None
    text: str
    answers: tuple[str, ...]
    labels: dict[str, str] = field(default_factory=dict)
    scored_as: Any = None
    talk: tuple[dict[str, Any], ...] = ()

    def photo(self) -> Image.Image:
        """See `opened`."""
        return opened(self.image)

    def messages(self, see: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
        """What is asked as a conversation; `see` gives the part that an image is in it."""
        image, text = {"type": "image", "image": self.image}, {"type": "text", "text": self.text}
        return [
            {
                "role": message["role"],
                "content": [
                    see(part["image"]) if part["type"] == "image" else part
                    for part in message["content"]
                ],
            }
            for message in self.talk or ({"role": "user", "content": (image, text)},)
        ]

    def words(self) -> str:
        """All that is said, by which questions without images differ."""
        messages = self.messages(lambda image: {"text": ""})
        return "\n".join(part["text"] for message in messages for part in message["content"])


def opened(image: Shown | None) -> Image.Image:
    """An image as a model is shown it; an ImageError if it cannot be read, or is None."""
    if image is None:
        raise ImageError("the question has no image")
    return decode(image) if isinstance(image, Photo) else load_image(image)


def data_url(image: Image.Image, kind: str, **settings: Any) -> str:
    """A photo as a `data:` URL, encoded as that kind of file."""
    file = BytesIO()
    image.save(file, format=kind, **settings)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def texts_in(row: dict[str, Any], key: str = "answers", least: int = 1) -> tuple[str, ...]:
    """The texts that a row lists; of objects, as VQA v2 has them, the `answer` of each. A KeyError
    or ValueError if the key, or a list of texts under it, is missing."""
    listed = row[key]
    if isinstance(listed, list) and len(listed) >= least:
        texts = [one.get("answer") if isinstance(one, dict) else one for one in listed]
        if all(isinstance(text, str) for text in texts):
            return tuple(texts)
    raise ValueError(f"a list '{key}' of {'two or more ' if least == 2 else ''}texts is needed")

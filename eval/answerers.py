"""Who answers: a model of this project, the same without photos, or one answer to everything."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

import vlm
from eval.question import Question, opened
from vlm.checkpoint import folder_of
from vlm.errors import ImageError, VLMError

HASHED = 2**20
"""Bytes of each end of a file of weights that tell it from another; with its size."""


@dataclass(frozen=True)
class Answer:
    """An answer; `text` is "" where there is none, and then `error` says why."""

    text: str
    error: str | None = None


class Answerer(Protocol):
    """Whose answers are scored."""

    def answer(self, questions: Sequence[Question], max_tokens: int) -> Iterator[Answer]:
        """An answer of at most `max_tokens` to each question, in their order, as they come;
        neighbours may be about the same image."""
        ...


@dataclass(frozen=True)
class Who:
    """One column of the table of scores.

    Attributes:
        label: in tables, and of the run's folder.
        make: from the questions that will be asked.
        settings: that a run to be resumed must have, too.
    """

    label: str
    make: Callable[[Sequence[Question]], Answerer]
    settings: dict[str, Any] = field(default_factory=dict)


class ModelAnswerer:
    """A model of this project, greedy or by beams, `batch_size` questions at a time."""

    def __init__(
        self, model: "vlm.VisionLanguageModel", beams: int = 1, batch_size: int = 32
    ) -> None:
        self.model = model
        self.beams, self.batch_size = beams, batch_size
        self.image: Any = None
        self.photo: Image.Image | None = None

    def answer(self, questions: Sequence[Question], max_tokens: int) -> Iterator[Answer]:
        """See `Answerer`. A photo that cannot be read is an error of its questions, a conversation
        that the model cannot be asked is one of its own."""

        def asked() -> Iterator[tuple[None, list[dict[str, Any]]] | VLMError]:
            for question in questions:
                try:
                    yield None, question.messages(self.see)
                except ImageError as error:
                    yield error

        settings = {"max_tokens": max_tokens, "beams": self.beams}
        for text in self.model.answers(asked(), self.batch_size, errors="return", **settings):
            yield Answer("", str(text)) if isinstance(text, VLMError) else Answer(text)

    def see(self, image: Any) -> dict[str, Any]:
        """The part of a message that an image is. Neighbours share a loaded photo, by which the
        model sees that it is the same."""
        if self.photo is None or self.image != image:
            self.photo, self.image = self.look(image), image
        return {"type": "image", "image": self.photo}

    def look(self, image: Any) -> Image.Image:
        """What the model is shown; an ImageError if it cannot be read."""
        return opened(image)


class BlindAnswerer(ModelAnswerer):
    """The same model shown the mean image, one of the colour that the tower takes for nothing,
    whatever the question is about: what it can guess from the question alone. With one image for
    all, the same words need to be asked only once."""

    def __init__(self, model: "vlm.VisionLanguageModel", *how: int) -> None:
        super().__init__(model, *how)
        preprocessing = model.vision.preprocessing
        colour = tuple(round(255 * channel) for channel in preprocessing.mean)
        self.mean = Image.new("RGB", (preprocessing.size, preprocessing.size), colour)
        self.known: dict[tuple[str, int], Answer] = {}

    def answer(self, questions: Sequence[Question], max_tokens: int) -> Iterator[Answer]:
        keys = [(question.words(), max_tokens) for question in questions]
        new = {k: q for k, q in zip(keys, questions, strict=True) if k not in self.known}
        answers = zip(new, super().answer([*new.values()], max_tokens), strict=True)
        for key in keys:
            if key not in self.known:
                # The first that is not known is the next of the new ones.
                self.known |= [next(answers)]
            yield self.known[key]

    def look(self, image: Any) -> Image.Image:
        return self.mean


class MajorityAnswerer:
    """Always the answer that is right most often among the questions that will be asked."""

    def __init__(self, questions: Sequence[Question]) -> None:
        counts = Counter(answer for question in questions for answer in set(question.answers))
        ((self.text, _),) = counts.most_common(1)

    def answer(self, questions: Sequence[Question], max_tokens: int) -> Iterator[Answer]:
        return repeat(Answer(self.text), len(questions))


def label_of(model: str) -> str:
    """What a model is called in tables and folders: a folder by its name, the `checkpoint` of a
    training run by that of the run, and what is no folder as it was given."""
    if not Path(model).exists():
        return model
    # Else `.` would have no name, and `checkpoint` no folder that it is in.
    folder = Path(os.path.abspath(model))
    run = folder.parent.name if folder.name == "checkpoint" else ""
    return run or folder.name


def weights_of(model: str) -> str | None:
    """What tells the weights of a folder from others: a hash over the ends of their files; None for
    a model that is no folder."""
    folder = folder_of(model)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with open(file, "rb") as content:
            digest.update(content.read(HASHED))
            content.seek(max(0, size - HASHED))
            digest.update(content.read(HASHED))
    return digest.hexdigest()

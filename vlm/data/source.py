"""What a data source is: the part of a config that says where samples come from."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vlm.config import check_choices
from vlm.errors import ConfigError

QUESTIONS = [
    "Describe the image.",
    "Describe the image in one sentence.",
    "What is in the picture?",
    "What does the photo show?",
    "What do you see in this image?",
    "Write a caption for this photo.",
]
"""What a caption may be the answer to; one is drawn for each photo and epoch."""

Format = Literal[
    "llava",
    "captions",
    "questions",
    "table",
    "sidecar",
    "coco",
    "instances",
    "vqa",
    "dataset",
    "shards",
]
"""See `vlm.data.read.READERS`."""


@dataclass
class Columns:
    """Names of the columns of a table or a data set, or of the keys in a shard's JSON.

    Args:
        image: the photo: a path, or encoded.
        text: a caption, or a list of them.
        question: with `answer`, what is asked; None for captions.
        answer: with `question`: a text, or a list of them (see the source's `answers`).
    """

    image: str = "image"
    text: str = "caption"
    question: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        if (self.question is None) != (self.answer is None):
            raise ConfigError("columns.question and columns.answer go together: give both or none")

    @property
    def texts(self) -> list[str]:
        return [self.text] if self.question is None else [self.question, self.answer]


@dataclass
class DataSource:
    """Where samples come from.

    Args:
        path: file, folder, pattern of tar shards, or the id of a data set on the hub.
        format: what it is; None looks into it.
        images: folder that image paths start from; None is that of the file, or `images` in it.
        annotations: VQA v2's answers, beside its questions.
        split: keep only this split; None keeps all.
        columns: names of the columns, where there are columns.
        questions: what captions answer; one is drawn for each photo and epoch. A question in the
            data comes first.
        instruction: put behind every question, on a line of its own, such as "Answer the question
            using a single word or phrase." (LLaVA-1.5). Captions and LLaVA's conversations stay as
            they are.
        answers: which of several answers to a question is right: the one given `most`, or `all` of
            them, joined by ", " (DAQUAR).
        limit: keep only this many samples, the first; None keeps all.
        weight: times that each sample is seen in an epoch; a fraction takes as many of them, others
            in each epoch.
        augment: crop and mirror each photo at random, anew in each epoch; in the texts about a
            mirrored one, left and right change places.
        self_critical: learn from captions that the model draws itself, as far as they come near to
            those of the source (see train/rewards.py), instead of from these.
    """

    path: str
    format: Format | None = None
    images: Path | None = None
    annotations: Path | None = None
    split: str | None = None
    columns: Columns = field(default_factory=Columns)
    questions: list[str] = field(default_factory=lambda: list(QUESTIONS))
    instruction: str | None = None
    answers: Literal["most", "all"] = "most"
    limit: int | None = None
    weight: float = 1.0
    augment: bool = False
    self_critical: bool = False

    def __post_init__(self) -> None:
        check_choices(self)
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit of {self.path} must be at least 1, not {self.limit}")
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"weight of {self.path} must be above 0, not {self.weight}")
        if not self.questions:
            raise ConfigError(f"{self.path} needs at least one question")

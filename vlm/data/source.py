"""What a data source is: the part of a config that says where samples come from."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
    "conversations",
    "captions",
    "questions",
    "table",
    "sidecar",
    "imagefolder",
    "coco",
    "instances",
    "vqa",
    "dataset",
    "shards",
]
"""See `vlm.data.read.READERS`."""


@dataclass
class Columns:
    """Names of the columns of a table or a data set, or of the keys of JSON. Without any, the usual
    ones are looked for, in this order.

    Args:
        image: the photo: a path, or encoded, or a list; `image`, `file_name` or `images`.
        text: a caption, or a list of them; `captions`, `caption` or `text`.
        question: with `answer`, what is asked; `question`.
        answer: a text, a number (true is yes), or a list (see the source's `answers`); `answers` or
            `answer`.
    """

    image: str | None = None
    text: str | None = None
    question: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        if (self.question is None) != (self.answer is None):
            raise ConfigError("columns.question and columns.answer go together: give both or none")


@dataclass
class DataSource:
    """Where samples come from.

    Args:
        path: file, folder, pattern of tar shards, or the id of a data set on the hub.
        format: what it is; None looks into it.
        images: folder that image paths start from; None is that of the file, or `images` in it.
        outside: photos may lie outside that folder: absolute paths, `file://` URLs and `..` are
            followed. Only for data that you trust: it can then name any file that you can read.
        annotations: VQA v2's answers, beside its questions.
        split: keep only this split; None keeps all.
        subset: which of a Hugging Face data set, its configuration; None is its only one.
        columns: names of columns or keys that are not the usual ones.
        caption_per_line: in a folder of photos with text files, each line of a text is a caption;
            by default the text is one.
        questions: what captions answer; one is drawn for each photo and epoch. A question in the
            data comes first.
        instruction: put behind every question, on a line of its own, such as "Answer the question
            using a single word or phrase." (LLaVA-1.5). Captions and conversations stay as they
            are; a question with options has its own.
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
    outside: bool = False
    annotations: Path | None = None
    split: str | None = None
    subset: str | None = None
    columns: Columns = field(default_factory=Columns)
    caption_per_line: bool = False
    questions: list[str] = field(default_factory=lambda: list(QUESTIONS))
    instruction: str | None = None
    answers: Literal["most", "all"] = "most"
    limit: int | None = None
    weight: float = 1.0
    augment: bool = False
    self_critical: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit of {self.path} must be at least 1, not {self.limit}")
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"weight of {self.path} must be above 0, not {self.weight}")
        if not self.questions:
            raise ConfigError(f"{self.path} needs at least one question")
        if any("<image>" in question for question in self.questions):
            raise ConfigError(f"questions of {self.path} come behind the photo: leave <image> out")

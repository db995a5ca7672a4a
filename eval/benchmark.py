"""What a benchmark is: where its questions are, what is asked, and how answers are scored."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eval.hub import Hub
from eval.metrics.scores import Scores
from eval.question import Question
from vlm.errors import DataError

NO_SPLITS = ("all",)
"""The splits of what has none."""


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
    hub: Hub | None = None
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

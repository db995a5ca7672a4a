"""What a benchmark is: where its questions are, what is asked, and how answers are scored."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.hub import Hub, Row
from eval.metrics.scores import Scores, group_means, mean_scores
from eval.question import Question
from vlm.data.records import leaves
from vlm.errors import DataError
from vlm.files import disk

NO_SPLITS = ("all",)
"""The splits of what has none."""

Make = Callable[[dict[str, Any], Any], Question | list[Question]]
"""A row's content and photo -> a question, or those that it holds."""


@dataclass(frozen=True)
class Benchmark:
    """Where the questions of a benchmark are, and how answers are scored.

    Attributes:
        title: as people write it, with the metric.
        splits: that can be asked; the first if nothing is said.
        layout: what to put into its folder, for who has not got it; None if it needs no folder.
        rows: folder and split -> what its files have for each question, named as on the hub.
        question: makes it, or those that a row holds.
        load: folder and split -> questions, where they are not made row by row.
        each: what one answer is worth, 0 to 1; None where only all answers together have a score.
        more: questions and answers -> figures beside the mean of `each`, in percent or as named.
        score_all: questions and answers -> scores; None is the mean of `each`, and that of each
            label's questions.
        folder: the name of its folder; None is that of the benchmark.
        file: of one's own, that it is; None for those with a folder.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    layout: str | None
    rows: Callable[[Path, str], Iterable[Row]] | None = None
    question: Make | None = None
    load: Callable[[Path, str], list[Question]] | None = None
    max_tokens: int = 16
    metric: str = ""
    each: Callable[[Question, str], float] | None = None
    more: Callable[[Sequence[Question], Sequence[str]], dict[str, float]] | None = None
    score_all: Callable[[Sequence[Question], Sequence[str]], Scores] | None = None
    hub: Hub | None = None
    folder: str | None = None
    file: Path | None = None

    def questions(self, data: Path, split: str | None, from_hub: bool = False) -> list[Question]:
        """The questions of a split, of the first if None, from its folder in `data` or the hub."""
        split = split or self.splits[0]
        if split not in self.splits:
            name = self.file or self.name
            if self.splits == NO_SPLITS:
                raise DataError(f"{name} has no splits: leave --split {split} out")
            raise DataError(f"{name} has no split '{split}': {', '.join(self.splits)}")
        if from_hub and self.layout is not None:
            if self.hub is None:
                raise DataError(f"{self.name} is not on the hub: put {self.layout} into a folder")
            return require_unlike(self.hub.id, split, make(self.hub.rows(split), self.question))
        folder = data / (self.folder or self.name)
        if self.layout is not None and not folder.is_dir():
            hub = ", or take it from the hub with --hub" if self.hub else ""
            raise DataError(
                f"{self.name} is not in {data} (--data): put {self.layout} into {folder}{hub}"
            )
        with disk(f"cannot read {folder}"):
            if self.load is not None:
                questions = self.load(folder, split)
            else:
                questions = make(self.rows(folder, split), self.question)
        return require_unlike(folder, split, questions)

    def score(self, questions: Sequence[Question], answers: Sequence[str]) -> Scores:
        if self.score_all is not None:
            return self.score_all(questions, answers)
        each = [self.each(*pair) for pair in zip(questions, answers, strict=True)]
        more = {} if self.more is None else self.more(questions, answers)
        return mean_scores(self.metric, each, breakdowns(questions, each), more)


def make(rows: Iterable[Row], question: Make) -> list[Question]:
    """The questions that rows hold; a DataError for one that lacks something, or has something
    else there."""
    questions: list[Question] = []
    for where, content, image in rows:
        try:
            found = question(content, photo_of(image))
            found = found if isinstance(found, list) else [found]
            texts = [text for one in found for text in (*one.answers, *one.labels.values())]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("an answer or its kind is no text")
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            reason = error if type(error) is ValueError else f"{type(error).__name__} {error}"
            told = f"{where}: not as it should be: {reason}"
            raise DataError(told) from error
        questions += found
    return questions


def breakdowns(questions: Sequence[Question], each: Sequence[float]) -> dict[str, dict[str, float]]:
    """By name of a breakdown, the mean of each label's questions, in percent."""
    names = dict.fromkeys(name for question in questions for name in question.labels)
    return {
        f"per_{name}": group_means(each, [question.labels.get(name) for question in questions])
        for name in names
    }


def photo_of(image: Any) -> Any:
    """A row's photo as a question has it; a ValueError for a path that leaves its folder."""
    if not isinstance(image, tuple):
        return image
    folder, name = image
    if leaves(name):
        raise ValueError(f"image {name!r} must be a path inside {folder}")
    return folder / name


def require_unlike(place: Any, split: str, questions: list[Question]) -> list[Question]:
    """Questions; a DataError if there are none, or two of one id."""
    if not questions:
        raise DataError(f"{place}: no question in split '{split}'")
    alike = len(questions) - len({question.id for question in questions})
    if alike:
        raise DataError(f"{place}: {alike} questions with an id of another")
    return questions

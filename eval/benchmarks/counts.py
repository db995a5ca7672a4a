"""How many there are of what has boxes in annotations of COCO's form (Lin et al. 2014)."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.benchmark import NO_SPLITS, Benchmark
from eval.hub import Row
from eval.metrics.vqa import NUMBERS
from eval.prompts import short
from eval.question import Question
from vlm.data.instances import COUNTED, how_many, instances_in, read_instances
from vlm.errors import DataError

MANY = 5
"""Numbers from here on are one group of the breakdown."""


def rows(folder: Path, split: str) -> Iterator[Row]:
    """Every category of every photo that can be counted."""
    found = instances_in(folder)
    if found is None:
        raise DataError(f"{folder}: no instances*.json there, nor in annotations/")
    file, images = found
    for photo in read_instances(file):
        for name, count in photo.counts().items():
            content = {"image": photo.image, "name": name, "count": count}
            yield Row(photo.where, content, (images, photo.image))


def question(row: dict[str, Any], image: Any) -> Question:
    count = row["count"]
    labels = {"number": str(count) if count < MANY else f"{MANY} to {COUNTED}"}
    number = f"{row['image']}/{row['name']}"
    return Question(number, image, short(how_many(row["name"])), (str(count),), labels)


def number_in(answer: str) -> int:
    """The first number that an answer names, in digits or as a word up to ten; 0 if there is none.

    >>> number_in("There are two dogs.")
    2
    """
    found = re.search(rf"(?<![\d.,])\d{{1,9}}(?![.,]?\d)|\b({'|'.join(NUMBERS)})\b", answer.lower())
    return 0 if found is None else int(NUMBERS.get(found[0], found[0]))


def is_right(question: Question, answer: str) -> float:
    return float(number_in(answer) == int(question.answers[0]))


def error(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """By how much answers are off in the mean."""
    pairs = zip(questions, answers, strict=True)
    errors = [abs(number_in(answer) - int(one.answers[0])) for one, answer in pairs]
    return {"mean_absolute_error": fmean(errors)}


COUNTS = Benchmark(
    name="counts",
    title="counts of what has boxes, exact match",
    splits=NO_SPLITS,
    layout="instances*.json of COCO's form and its photos (val2017/ or images/)",
    rows=rows,
    question=question,
    metric="exact match of the number; no number is 0",
    each=is_right,
    more=error,
    folder="pope",
)

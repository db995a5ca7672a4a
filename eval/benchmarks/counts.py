"""How many there are of what has boxes in annotations of COCO's form (Lin et al. 2014), and of what
is not there."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.benchmark import NO_SPLITS, Benchmark
from eval.hub import Row
from eval.metrics.vqa import NUMBERS
from eval.prompts import short
from eval.question import Question
from vlm.data.instances import COUNTED, UNCOUNTED, chosen_of, how_many, instances_in, read_instances
from vlm.errors import DataError

MANY = 6
"""Numbers from here on are one group of the breakdown."""


def rows(folder: Path, split: str) -> Iterator[Row]:
    """Every category of every photo that can be counted, and one of which there is none, as POPE
    draws it."""
    found = instances_in(folder)
    if found is None:
        raise DataError(f"{folder}: no instances*.json there, nor in annotations/")
    file, images = found
    photos = read_instances(file)
    for photo, chosen in zip(photos, chosen_of(photos), strict=True):
        absent = [name for name in chosen.absent["random"] if name not in UNCOUNTED][:1]
        for name, count in (photo.counts() | dict.fromkeys(absent, 0)).items():
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


def error_and_mean(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """By how much answers are off in the mean; and the mean over the numbers below `MANY`, as most
    things are there once or not at all."""
    off: dict[int, list[int]] = defaultdict(list)
    for one, answer in zip(questions, answers, strict=True):
        number = int(one.answers[0])
        off[number].append(abs(number_in(answer) - number))
    right = [fmean(each == 0 for each in off[number]) for number in range(MANY) if number in off]
    error = fmean(each for errors in off.values() for each in errors)
    mean = {f"mean_of_0_to_{MANY - 1}": 100 * fmean(right)} if right else {}
    return {"mean_absolute_error": error} | mean


COUNTS = Benchmark(
    name="counts",
    title="counts of what has boxes, and of what has none, exact match",
    splits=NO_SPLITS,
    layout="instances*.json of COCO's form and its photos (val2017/ or images/)",
    rows=rows,
    question=question,
    metric="exact match of the number; no number is 0",
    each=is_right,
    more=error_and_mean,
    folder="pope",
)

"""Naming: does the model say what the main thing of an everyday photo is? What it is, is read off
the photo's human captions (`vlm.data.things.main_thing`)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from eval.benchmark import Benchmark
from eval.benchmarks.captions import captioned
from eval.question import Question
from vlm.data.things import main_thing, named_things
from vlm.errors import DataError

ASKED = ("What is this?", "Describe the image.")


def load(folder: Path, split: str) -> list[Question]:
    """Two questions about each photo that has a main thing."""
    photos = [photo for each in split.split("+") for photo in captioned(folder, each)]
    things = [(path, thing) for path, captions in photos if (thing := main_thing(list(captions)))]
    if not things:
        raise DataError(f"none of {len(photos)} photos has a main thing that its captions agree on")
    return [
        Question(f"{path.name}/{place}", path, text, (thing,), {"question": text}, path.name)
        for path, thing in things
        for place, text in enumerate(ASKED)
    ]


def names(question: Question, answer: str) -> float:
    """1 if the answer names the thing, by whatever word, else 0."""
    return float(question.answers[0] in named_things(answer))


def either(
    each: Callable[[Question, str], float], questions: Sequence[Question], answers: Sequence[str]
) -> dict[str, float]:
    """The share of photos whose thing one answer at least names."""
    best: dict[str, float] = defaultdict(float)
    for question, answer in zip(questions, answers, strict=True):
        best[question.scored_as] = max(best[question.scored_as], each(question, answer))
    return {"either": 100 * fmean(best.values())}


NAMING = Benchmark(
    name="naming",
    title="Naming the main thing",
    splits=("val+test", "test", "val"),
    layout="captions.jsonl (image, captions, split) and images/",
    load=load,
    max_tokens=40,
    metric="main thing named",
    each=names,
    more=partial(either, names),
    folder="coco_small",
)

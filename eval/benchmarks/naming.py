"""Naming: does the model say what the main thing of an everyday photo is? What it is, is read off
the photo's human captions (`vlm.data.things.main_thing`)."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from eval.benchmark import Benchmark
from eval.metrics.scores import Scores, mean_scores
from eval.question import Question
from vlm.data.captioned import read_captions
from vlm.data.things import main_thing, named_things
from vlm.errors import DataError

ASKED = ("What is this?", "Describe the image.")


def load(folder: Path, split: str) -> list[Question]:
    """Two questions about each photo that has a main thing.

    Raises:
        DataError: a file that is missing or broken, or no photo with a main thing.
    """
    splits = ("val", "test") if split == "val+test" else (split,)
    items = [item for each in splits for item in read_captions(folder / "captions.jsonl", each)]
    things = [(item, thing) for item in items if (thing := main_thing(item.captions))]
    if not things:
        raise DataError(f"none of {len(items)} photos has a main thing that its captions agree on")
    return [
        Question(
            f"{item.image.name}/{place}",
            item.image,
            text,
            (thing,),
            {"question": text},
            scored_as=item.image.name,
        )
        for item, thing in things
        for place, text in enumerate(ASKED)
    ]


def names(question: Question, answer: str) -> float:
    """1 if the answer names the thing, by whatever word, else 0."""
    return float(question.answers[0] in named_things(answer))


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """The share of answers that name the thing; by question, and of photos with one at least."""
    each = [names(*pair) for pair in zip(questions, predictions, strict=True)]
    best: dict[str, float] = defaultdict(float)
    for question, worth in zip(questions, each, strict=True):
        best[question.scored_as] = max(best[question.scored_as], worth)
    scores = mean_scores(
        "main thing named",
        each,
        {"per_question": [question.labels["question"] for question in questions]},
    )
    return replace(scores, more={"either": 100 * fmean(best.values())})


NAMING = Benchmark(
    name="naming",
    title="Naming the main thing",
    splits=("val+test", "test", "val"),
    layout="captions.jsonl (image, captions, split) and images/",
    load=load,
    score=score,
    max_tokens=40,
    each=names,
    folder="coco_small",
)

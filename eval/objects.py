"""`vlm eval objects`: does the model name the main thing of an everyday photo?

What a photo shows is read off its human captions, see `vlm.things.main_thing`."""

from collections import Counter
from dataclasses import asdict, astuple, dataclass
from json import dumps
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import vlm
from eval.captions import QUESTION, Answerer, answer_all
from vlm.captions import CaptionedImage, read_captions, write_records
from vlm.errors import DataError
from vlm.things import main_thing, named_things

QUESTIONS = ("What is this?", QUESTION)


@dataclass(frozen=True)
class Miss:
    """A photo whose main thing the answer did not name."""

    image: str
    thing: str
    question: str
    answer: str


@dataclass(frozen=True)
class ObjectReport:
    """How often a model names the main thing.

    Args:
        accuracy: share of right answers for each question, 0 to 1.
        overall: share of right answers over all questions, 0 to 1.
        either: share of photos with at least one right answer, 0 to 1.
        photos: number of photos with a main thing.
        things: number of photos for each main thing.
        misses: the wrong answers.
    """

    accuracy: dict[str, float]
    overall: float
    either: float
    photos: int
    things: dict[str, int]
    misses: list[Miss]


def evaluate_objects(
    model: Answerer, items: list[CaptionedImage], questions: tuple[str, ...], batch_size: int
) -> ObjectReport:
    """Ask a model about the photos that have a main thing; an answer that names it is right.

    Args:
        model: a loaded model.
        items: photos with human captions.
        questions: each is asked of every photo.
        batch_size: photos answered at a time.

    Raises:
        DataError: no question, or no photo has a main thing.
        ImageError: a photo cannot be read.
    """
    if not questions:
        raise DataError("no question to ask: give at least one")
    pairs = [(item.image, thing) for item in items if (thing := main_thing(item.captions))]
    if not pairs:
        raise DataError(f"none of {len(items)} photos has a main thing that its captions agree on")
    images = [image for image, _ in pairs]
    accuracy, misses = {}, []
    named = set()
    for question in questions:
        answers = answer_all(model, images, question, batch_size, question)
        wrong = [
            Miss(image.name, thing, question, answer)
            for (image, thing), answer in zip(pairs, answers, strict=True)
            if thing not in named_things(answer)
        ]
        named |= {image.name for image in images} - {miss.image for miss in wrong}
        accuracy[question] = 1 - len(wrong) / len(pairs)
        misses += wrong
    overall = sum(accuracy.values()) / len(accuracy)
    things = dict(Counter(thing for _, thing in pairs).most_common())
    either = len(named) / len(pairs)
    return ObjectReport(accuracy, overall, either, len(pairs), things, misses)


def main(
    data: Path,
    model: str = "embedded",
    splits: tuple[str, ...] = ("val", "test"),
    questions: tuple[str, ...] = QUESTIONS,
    batch_size: int = 16,
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Score how often a model names the main thing of a photo.

    Args:
        data: folder with `captions.jsonl` and the photos.
        model: what to evaluate: `embedded`, or a checkpoint folder.
        splits: the splits to look at.
        questions: each is asked of every photo.
        batch_size: photos answered at a time.
        output: folder for `misses.jsonl`; none is written without it.
        json: print JSON instead of a table.
    """
    items = [item for split in splits for item in read_captions(data / "captions.jsonl", split)]
    report = evaluate_objects(vlm.load(model), items, questions, batch_size)
    if output is not None:
        write_records(output / "misses.jsonl", (asdict(miss) for miss in report.misses))
    if json:
        print(dumps(asdict(report)))
        return
    console = Console()
    table = Table("question", "accuracy", title=f"{report.photos} photos, {', '.join(splits)}")
    shares = {**report.accuracy, "overall": report.overall, "either": report.either}
    for question, share in shares.items():
        table.add_row(escape(question), f"{share:.1%}")
    console.print(table)
    misses = Table("image", "thing", "question", "answer", title="misses")
    for miss in report.misses:
        misses.add_row(*map(escape, astuple(miss)))
    console.print(misses)

"""`predictions.jsonl`: answers on the disk as they come, asked in batches over several processes,
resumed where a killed run was."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from eval.answerers import Answer, Answerer
from eval.benchmark import Benchmark
from eval.question import Question
from vlm.errors import DataError
from vlm.files import append_rows, read_rows, write_rows


@dataclass(frozen=True)
class Prediction:
    """An answer as it is written down.

    Attributes:
        image: name of the photo; None where it has no file.
        prediction: "" where there is no answer, and then `error` says why.
    """

    question_id: str
    image: str | None
    question: str
    prediction: str
    answers: tuple[str, ...]
    error: str | None = None

    @classmethod
    def of(cls, question: Question, answer: Answer) -> "Prediction":
        name = Path(question.image).name if isinstance(question.image, str | Path) else None
        return cls(question.id, name, question.text, answer.text, question.answers, answer.error)


def read_predictions(file: Path) -> dict[str, Prediction]:
    """The answers that a file has, by question; none if there is no file."""
    found: dict[str, Prediction] = {}
    for number, row in read_rows(file):
        try:
            one = Prediction(**row | {"answers": tuple(row["answers"])})
        except (KeyError, TypeError) as error:
            told = f"{file}, line {number}: no answer as this project writes it"
            raise DataError(told) from error
        if one.question_id in found:
            raise DataError(f"{file}, line {number}: a second answer to {one.question_id}")
        found[one.question_id] = one
    return found


def answered(file: Path, questions: Sequence[Question]) -> dict[str, Prediction]:
    """The answers that are there already, by question; a DataError if they belong to other
    questions. Those that failed are removed, from the file too: a server that was down is asked
    again."""
    found = read_predictions(file)
    done = {number: one for number, one in found.items() if one.error is None}
    if len(done) < len(found):
        write_rows(file, map(asdict, done.values()))
    texts = {question.id: question.text for question in questions}
    others = [one for one in done.values() if texts.get(one.question_id) != one.question]
    if others:
        now = texts.get(others[0].question_id)
        what = "other questions" if now is None else "questions that are now worded otherwise"
        told = f"{file} has answers to {len(others):,} {what}, the first is {others[0].question!r}"
        told += "" if now is None else f", now {now!r}"
        raise DataError(f"{told}: give another --output")
    return done


def in_order(questions: Sequence[Question]) -> list[Question]:
    """Questions in the order in which they are asked: those about one image next to each other,
    since they share its tokens, and images by their longest question, since rows of like length
    are padded least; the longest first, so that memory runs out at the beginning or never."""
    by_image: dict[Any, list[Question]] = {}
    for question in questions:
        by_image.setdefault(question.image, []).append(question)
    groups = sorted(by_image.values(), key=lambda group: -max(len(one.text) for one in group))
    return [question for group in groups for question in group]


def answer_all(
    benchmark: Benchmark,
    questions: Sequence[Question],
    answerer: Answerer,
    file: Path,
    batch_size: int,
) -> list[Prediction]:
    """Asks what has no answer yet, and writes `batch_size` answers at a time. Each process of
    several takes every so many-th batch and the first writes: the file is the same as that of one
    process. Returns an answer to each question, in their order; in processes other than the first
    nothing."""
    state = PartialState()
    first = state.is_main_process
    done = answered(file, questions) if first else {}
    (known,) = gather_object([set(done)] if first else [])
    left = [question for question in in_order(questions) if question.id not in known]
    batches = [left[at : at + batch_size] for at in range(0, len(left), batch_size)]
    asked = {question.id: question for question in questions}
    mine = [one for batch in batches[state.process_index :: state.num_processes] for one in batch]
    answers = zip(mine, answerer.answer(mine, benchmark.max_tokens), strict=True)

    def worth_of(predictions: Iterable[Prediction]) -> list[float]:
        if benchmark.each is None:
            return []
        return [benchmark.each(asked[one.question_id], one.prediction) for one in predictions]

    worth = worth_of(done.values())
    with progress_bar(disable=not first) as bar:
        task = bar.add_task(benchmark.name, total=len(asked), completed=len(known), score="")
        for _ in range(0, len(batches), state.num_processes):
            new = gather_object([Prediction.of(*one) for one in islice(answers, batch_size)])
            if first:
                append_rows(file, map(asdict, new), durable=True)
                done |= {one.question_id: one for one in new}
                worth += worth_of(new)
                score = f"score {100 * fmean(worth):.1f}" if worth else ""
                bar.update(task, advance=len(new), score=score)
    return [done[question.id] for question in questions] if first else []


def progress_bar(disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}  {task.speed!s:.5} a second"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[score]}"),
        console=Console(stderr=True, highlight=False),
        transient=True,
        disable=disable,
    )

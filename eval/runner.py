"""The runner: questions -> answers on the disk, in batches, over several processes, going on where
a killed run was."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from eval.answerer import Answer, Answerer
from eval.benchmark import Benchmark
from eval.predictions import Prediction, append_predictions, forget_failed, read_predictions
from eval.question import Question
from vlm.errors import DataError


def in_order(questions: Sequence[Question]) -> list[Question]:
    """Questions in the order in which they are asked: those about one image next to each other,
    since they share its tokens, and images by their longest question, since rows of like length
    are padded least; the longest first, so that memory runs out at the beginning or never."""
    by_image: dict[Any, list[Question]] = {}
    for question in questions:
        image = question.image
        key = id(image) if isinstance(image, Image.Image) else image
        by_image.setdefault(key, []).append(question)
    groups = sorted(
        by_image.values(), key=lambda group: -max(len(question.text) for question in group)
    )
    return [question for group in groups for question in group]


def answered(file: Path, questions: Sequence[Question]) -> dict[str, Prediction]:
    """The answers that are there already, by question. Those that failed are forgotten, on the disk
    too: a server that was down is asked again.

    Raises:
        DataError: answers that are there belong to other questions, or the file cannot be read or
            written.
    """
    done = forget_failed(file, read_predictions(file))
    texts = {question.id: question.text for question in questions}
    others = [one for one in done.values() if texts.get(one.question_id) != one.question]
    if others:
        first = others[0]
        now = texts.get(first.question_id)
        what = "other questions" if now is None else "questions that are now worded otherwise"
        asked = "" if now is None else f", now {now!r}"
        raise DataError(
            f"{file} has answers to {len(others):,} {what}, the first is {first.question!r}{asked}:"
            " give another --output"
        )
    return done


def answer_all(
    benchmark: Benchmark,
    questions: Sequence[Question],
    answerer: Answerer,
    file: Path,
    batch_size: int,
    console: Console,
) -> list[Prediction]:
    """Asks what has no answer yet. Each process of several takes every so many-th batch, and the
    first writes; the file is the same as that of one process.

    Args:
        benchmark: that the questions are of.
        questions: all of them.
        answerer: is asked.
        file: `predictions.jsonl`, gone on with if it is there.
        batch_size: questions asked at a time, by each process.
        console: of the progress bar.

    Returns:
        An answer to each question, in their order.

    Raises:
        DataError: answers that are there belong to other questions, or cannot be written.
    """
    state = PartialState()
    done = answered(file, questions) if state.is_main_process else {}
    (known,) = gather_object([set(done)] if state.is_main_process else [])
    left = [question for question in in_order(questions) if question.id not in known]
    batches = [left[at : at + batch_size] for at in range(0, len(left), batch_size)]
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}  {task.speed!s:.5} a second"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[score]}"),
        console=console,
        transient=True,
        disable=not state.is_main_process,
    )
    each = benchmark.each
    worth = [each(q, done[q.id].prediction) for q in questions if q.id in done] if each else []
    with bar:
        task = bar.add_task(benchmark.name, total=len(questions), completed=len(known), score="")
        for start in range(0, len(batches), state.num_processes):
            side_by_side = batches[start : start + state.num_processes]
            mine = next(iter(side_by_side[state.process_index :]), [])
            answers = answerer.answer(mine, benchmark.max_tokens) if mine else []
            everyone = gather_object([predicted(*pair) for pair in zip(mine, answers, strict=True)])
            if not state.is_main_process:
                continue
            append_predictions(file, everyone)
            asked = [question for batch in side_by_side for question in batch]
            for question, one in zip(asked, everyone, strict=True):
                done[question.id] = one
                worth += [each(question, one.prediction)] if each else []
            score = f"score {100 * sum(worth) / len(worth):.1f}" if worth else ""
            bar.update(task, advance=len(everyone), score=score)
    return [done[question.id] for question in questions] if state.is_main_process else []


def predicted(question: Question, answer: Answer) -> Prediction:
    """An answer as it is written down."""
    name = Path(question.image).name if isinstance(question.image, str | Path) else None
    return Prediction(question.id, name, question.text, answer.text, question.answers, answer.error)

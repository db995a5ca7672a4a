"""How fast questions are answered: the runner of `vlm eval` beside the plain loop that most
evaluations are, one question at a time with its photo encoded anew. See README.md.

    python benchmarks/eval_speed.py --json
"""

from argparse import ArgumentParser
from functools import partial
from json import dumps
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from measured import machine
from rich.console import Console
from rich.table import Table

import vlm
from eval.answerers import ModelAnswerer
from eval.benchmarks import BENCHMARKS
from eval.predictions import answer_all
from eval.question import Question

BENCHMARK = BENCHMARKS["easy-vqa"]


def main(photos: int, batch_size: int, model: str, json: bool) -> None:
    """Times the runner beside the plain loop, on the first photos of easy-VQA's test split."""
    questions = BENCHMARK.questions(Path(), None)
    first = set(list(dict.fromkeys(question.image for question in questions))[:photos])
    questions = [question for question in questions if question.image in first]
    loaded = vlm.load(model)
    answers, rates = [], []
    for answer in (plain_loop, partial(runner, batch_size=batch_size)):
        # Once, for what is set up at the first call.
        answer(loaded, questions[:2])
        began = perf_counter()
        answers.append(answer(loaded, questions))
        rates.append(len(questions) / (perf_counter() - began))
    plain, ours = rates
    alike = sum(map(str.__eq__, *answers))
    console = Console(highlight=False)
    console.print(f"{len(questions)} questions about {photos} photos, {machine()}")
    table = Table("", "questions/s", "speed-up")
    table.add_row("plain loop", f"{plain:.2f}", "1.00x")
    table.add_row("vlm eval", f"{ours:.2f}", f"{ours / plain:.2f}x")
    console.print(table)
    console.print(f"{alike} of {len(questions)} answers are the same")
    if json:
        line = {"machine": machine(), "questions": len(questions), "same_answers": alike}
        line |= {"eval_speedup": round(ours / plain, 2), "questions_per_second": ours}
        print(dumps(line))


def plain_loop(model: "vlm.VisionLanguageModel", questions: list[Question]) -> list[str]:
    """One question after the other, its photo encoded for each."""
    answers = []
    for question in questions:
        model.forget_images()
        answers.append(model.chat(question.text, question.image, max_tokens=BENCHMARK.max_tokens))
    return answers


def runner(
    model: "vlm.VisionLanguageModel", questions: list[Question], batch_size: int
) -> list[str]:
    """As `vlm eval` does, every answer written to the disk."""
    model.forget_images()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.jsonl"
        answerer = ModelAnswerer(model, batch_size=batch_size)
        found = answer_all(BENCHMARK, questions, answerer, file, batch_size)
    return [one.prediction for one in found]


if __name__ == "__main__":
    parser = ArgumentParser(description="Time `vlm eval` beside a plain loop.")
    parser.add_argument("--photos", type=int, default=20, help="with about ten questions each")
    parser.add_argument("--batch_size", type=int, default=32, help="questions in one batch")
    parser.add_argument("--model", default="embedded", help="as `vlm eval` takes it")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    main(**vars(parser.parse_args()))

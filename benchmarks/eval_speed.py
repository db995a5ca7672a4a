"""How fast questions are answered: the runner of `vlm eval` beside the plain loop that most
evaluations are, one question at a time with its photo encoded anew. See README.md.

    python benchmarks/eval_speed.py --json
"""

import sys
from collections.abc import Callable
from json import dumps
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

import vlm
from eval.answerers import ModelAnswerer
from eval.benchmarks import BENCHMARKS
from eval.predictions import answer_all
from eval.question import Question
from vlm.cli import add_parameters, options_and_words

BENCHMARK = BENCHMARKS["easy-vqa"]


def main(
    photos: int = 20, batch_size: int = 32, model: str = "embedded", json: bool = False
) -> None:
    """Time the runner beside the plain loop, on the first photos of easy-VQA's test split.

    Args:
        photos: about ten questions are asked of each.
        batch_size: questions in one batch of the runner.
        model: as `vlm eval` takes it.
        json: end with one line of JSON.
    """
    questions = first_photos(BENCHMARK.questions(Path(), None), photos)
    loaded = vlm.load(model)
    console = Console(highlight=False)
    # Both once, for what is set up at the first call.
    plain_loop(loaded, questions[:2])
    runner(loaded, questions[:2], batch_size)
    ways: dict[str, Callable[[], list[str]]] = {
        "plain loop": lambda: plain_loop(loaded, questions),
        "vlm eval": lambda: runner(loaded, questions, batch_size),
    }
    answers, rates = {}, {}
    for name, way in ways.items():
        began = perf_counter()
        answers[name] = way()
        rates[name] = len(questions) / (perf_counter() - began)
    alike = sum(map(str.__eq__, *answers.values()))
    ratio = rates["vlm eval"] / rates["plain loop"]
    console.print(f"{len(questions)} questions about {photos} photos, {machine()}")
    table = Table()
    for column in ("", "questions/s", "speed-up"):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.2f}", f"{rate / rates['plain loop']:.2f}x")
    console.print(table)
    console.print(f"{alike} of {len(questions)} answers are the same")
    if json:
        line = {"machine": machine(), "questions": len(questions), "same_answers": alike}
        line |= {"eval_speedup": round(ratio, 2), "questions_per_second": rates["vlm eval"]}
        print(dumps(line))


def first_photos(questions: list[Question], photos: int) -> list[Question]:
    """The questions about the first photos."""
    wanted = set(list(dict.fromkeys(question.image for question in questions))[:photos])
    return [question for question in questions if question.image in wanted]


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
        quiet = Console(quiet=True)
        found = answer_all(BENCHMARK, questions, ModelAnswerer(model), file, batch_size, quiet)
    return [one.prediction for one in found]


def machine() -> str:
    """What it runs on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}"


if __name__ == "__main__":
    parser = ArgumentParser(prog="eval_speed.py", description=main.__doc__.split("\n")[0])
    options, _ = options_and_words(sys.argv[1:], add_parameters(parser, main))
    main(**vars(parser.parse_args(options)))

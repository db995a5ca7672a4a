"""How long the command takes to start: an answer from the shell, the first word of one where the
model is loaded, help, and a mistake in a config. See README.md.

    python benchmarks/start.py --json
"""

import os
import sys
from argparse import ArgumentParser
from contextlib import suppress
from json import dumps
from pathlib import Path
from statistics import median
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

import psutil
from measured import machine
from rich.console import Console
from rich.table import Table

import vlm

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "examples" / "chelsea.png"
QUESTION = "What is in the picture?"
TIMES = 5
"""Runs of each, behind a first one; the median counts."""


def main(json: bool) -> None:
    """Times each command, and the first word of an answer."""
    with TemporaryDirectory() as folder:
        wrong = Path(folder, "wrong.yaml")
        wrong.write_text("learning_rat: 1\n", encoding="utf-8")
        commands = {
            "vlm chat PHOTO QUESTION": ["chat", str(PHOTO), QUESTION],
            "the same, --dtype float32": ["chat", str(PHOTO), QUESTION, "--dtype", "float32"],
            "vlm train --help": ["train", "--help"],
            "vlm train with a mistake": ["train", str(wrong)],
        }
        costs = {name: run(words) for name, words in commands.items()}
    costs["first word, model loaded"] = first_word(), 0
    table = Table("", "seconds", "GB at most")
    for name, (seconds, memory) in costs.items():
        table.add_row(name, f"{seconds:.2f}", f"{memory / 1e9:.2f}" if memory else "")
    console = Console(highlight=False)
    console.print(machine())
    console.print(table)
    if json:
        names = ("seconds", "memory")
        rows = {name: dict(zip(names, cost, strict=True)) for name, cost in costs.items()}
        print(dumps({"machine": machine(), "costs": rows}))


def run(words: list[str]) -> tuple[float, int]:
    """Seconds of a command, and most bytes that its resident set had."""
    took, most = [], 0
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(TIMES + 1):
        began = perf_counter()
        process = psutil.Popen(
            [sys.executable, "-m", "vlm", *words],
            env=environment,
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        # Not what the system tells of its children: that counts this process before the command.
        while process.poll() is None:
            with suppress(psutil.Error):
                most = max(most, process.memory_info().rss)
            sleep(0.005)
        took.append(perf_counter() - began)
    return median(took[1:]), most


def first_word() -> float:
    """Seconds to the first piece of an answer about a photo that was not seen before."""
    model = vlm.load("embedded")
    took = []
    for _ in range(TIMES + 1):
        model.forget_images()
        began = perf_counter()
        next(model.stream(QUESTION, images=[PHOTO]))
        took.append(perf_counter() - began)
    return median(took[1:])


if __name__ == "__main__":
    parser = ArgumentParser(description="Time the start of the command.")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    main(**vars(parser.parse_args()))

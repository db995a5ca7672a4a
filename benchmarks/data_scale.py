"""What a training run costs before its first step, as its data grows: LLaVA-like conversations in
one JSON file. See README.md.

    python benchmarks/data_scale.py --conversations 665000 --json
    python benchmarks/data_scale.py --plot data_scale.png
"""

import os
import random
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from made_up import WORDS, photo, write_llava
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from settings import TINY

ROOT = Path(__file__).resolve().parents[1]

SIZES = [1_000, 10_000, 100_000, 1_000_000]
"""Conversations of the plot."""

PHOTOS = 300
"""Files that the conversations are about; 5% of these are about none."""

QUICK = replace(TINY, photos=8, steps=1, warm_up=0)
"""Whose step takes no time."""

JSON_LOAD = "json.load alone"
LOAD = "import json, sys; json.load(open(sys.argv[1]))"
FIRST, SECOND = "vlm train, first start", "vlm train, second start"
TWO_FIRST, TWO = f"{FIRST}, 2 processes", f"{SECOND}, 2 processes"
DATA = "vlm data"
PLOTTED = [JSON_LOAD, FIRST, SECOND, DATA]
ROWS = [JSON_LOAD, FIRST, SECOND, TWO_FIRST, TWO, DATA]


@dataclass(frozen=True)
class Cost:
    """Seconds to the first step, or to the end; peak bytes of the largest process."""

    seconds: float
    memory: int


def main(conversations: int, json: bool = False, plot: Path | None = None) -> None:
    """Times starts with so many conversations, or with each of `SIZES` for the plot."""
    console = Console(highlight=False, width=max(100, Console().width))
    sizes = SIZES if plot else [conversations]
    names = PLOTTED if plot else ROWS
    costs = {size: measure(size, names, console) for size in sizes}
    for size, rows in costs.items():
        table = Table("", "seconds", "GB of the largest process", title=f"{size:,} conversations")
        for name, cost in rows.items():
            table.add_row(name, f"{cost.seconds:.1f}", f"{cost.memory / 1e9:.2f}")
        console.print(table)
    line: dict[str, Any] = {
        "costs": {n: {k: asdict(c) for k, c in costs[n].items()} for n in costs}
    }
    if plot:
        line["exponents"] = draw(costs, plot)
        console.print(f"{plot}: exponents {line['exponents']}")
    if json:
        print(dumps(line))


def measure(size: int, names: list[str], console: Console) -> dict[str, Cost]:
    """Each of the named commands, one after the other, with a cache that is empty at first."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        console.print(f"{size:,} conversations are written", style="dim")
        file = write(folder, size)
        rows = {}
        for name in names:
            console.print(f"{size:,} conversations: {name}", style="dim")
            if "first" in name:
                shutil.rmtree(folder / "cache", ignore_errors=True)
            shutil.rmtree(folder / "run", ignore_errors=True)
            rows[name] = run([sys.executable, *command(name, folder, file)], folder)
    return rows


def command(name: str, folder: Path, file: Path) -> list[str]:
    if name == JSON_LOAD:
        return ["-c", LOAD, str(file)]
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    what = "data" if name == DATA else "train"
    return [*(two if "2 processes" in name else []), "-m", "vlm", what, str(folder / "config.yaml")]


def run(command: list[str], folder: Path) -> Cost:
    """Runs a command to its end, and looks every 20 ms at its processes and for its first step."""
    environment = os.environ | {"VLM_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    began, seconds, memory = time.perf_counter(), None, 0
    with (folder / "output").open("w") as output:
        process = psutil.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=folder
        )
        while process.poll() is None:
            metrics = folder / "run" / "metrics.jsonl"
            if seconds is None:
                try:
                    all_of_it = [process, *process.children(recursive=True)]
                    memory = max(memory, *(each.memory_info().rss for each in all_of_it))
                except psutil.NoSuchProcess:
                    pass
                if metrics.is_file() and metrics.stat().st_size:
                    seconds = time.perf_counter() - began
            time.sleep(0.02)
    if process.returncode:
        sys.exit(f"data_scale: {' '.join(command)}:\n{(folder / 'output').read_text()}")
    return Cost(seconds or time.perf_counter() - began, memory)


def write(folder: Path, size: int) -> Path:
    """Writes conversations with their photos, a model whose step is nothing, and a config."""
    generator = random.Random(0)
    words = WORDS.split()
    texts = [" ".join(generator.choices(words, k=generator.randint(6, 70))) for _ in range(5000)]
    names = [f"coco/train2017/{number * 1931:012d}.jpg" for number in range(PHOTOS)]
    (folder / "coco/train2017").mkdir(parents=True)
    for number, name in enumerate(names):
        photo(number).save(folder / name, quality=90)
    file = folder / "mix.json"
    with file.open("w", encoding="utf-8") as opened:
        for number in range(size):
            row: dict[str, Any] = {"id": f"{number:012d}"}
            said = generator.choices(texts, k=2 * generator.randint(1, 4))
            if generator.random() >= 0.05:
                row["image"], said[0] = generator.choice(names), f"<image>\n{said[0]}"
            who = ("human", "gpt") * len(said)
            turns = [{"from": who[at], "value": text} for at, text in enumerate(said)]
            opened.write(("[" if number == 0 else ", ") + dumps(row | {"conversations": turns}))
        opened.write("]")
    write_llava(QUICK, folder / "llava")
    config = {
        "data": [{"path": str(file)}],
        "model": {"llava": str(folder / "llava")},
        "output": str(folder / "run"),
        "max_steps": 1,
        "trackers": [],
    }
    (folder / "config.yaml").write_text(dumps(config), encoding="utf-8")
    return file


def draw(costs: dict[int, dict[str, Cost]], output: Path) -> dict[str, dict[str, float]]:
    """Draws seconds and memory against conversations; gives the exponents: the slopes of straight
    lines through all points, in the logarithms of both."""
    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    exponents: dict[str, dict[str, float]] = {}
    for axes, what, unit in zip(
        figure.subplots(1, 2), ("seconds", "memory"), (1, 1e9), strict=True
    ):
        for name in PLOTTED:
            values = [getattr(rows[name], what) / unit for rows in costs.values()]
            exponents.setdefault(name, {})[what] = straight_line(axes, list(costs), values, name)
        axes.set(xlabel="conversations", ylabel=what if unit == 1 else "GB of the largest process")
    FigureCanvasAgg(figure).print_png(output)
    return exponents


def straight_line(axes: Axes, sizes: list[int], values: list[float], name: str) -> float:
    """Draws costs against sizes; gives the exponent."""
    slope, _ = np.polyfit(np.log(sizes), np.log(values), 1)
    axes.loglog(sizes, values, "o-", label=f"{name}: exponent {slope:.2f}")
    axes.grid(alpha=0.3)
    axes.legend()
    return round(float(slope), 2)


if __name__ == "__main__":
    parser = ArgumentParser(description="Time starts of a training run as its data grows.")
    parser.add_argument("--conversations", type=int, default=665_000, help="in the file")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--plot", type=Path, help="a PNG of 1,000 to 1,000,000 conversations")
    main(**vars(parser.parse_args()))

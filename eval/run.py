"""`vlm eval`: benchmarks, answered and scored, with what could be had for less beside them."""

import hashlib
import os
import re
import time
from collections.abc import Callable
from json import dumps, loads
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import vlm
from eval import compare as comparison
from eval.answerer import Answerer, BlindAnswerer, MajorityAnswerer, ModelAnswerer
from eval.benchmarks import BENCHMARKS
from eval.benchmarks.own import own
from eval.endpoint import EndpointAnswerer, Usage
from eval.page import write_page
from eval.question import Benchmark, Question
from eval.report import write_report
from eval.runner import answer_all
from vlm.errors import ConfigError, DataError

HASHED = 2**20
"""Bytes of each end of a file of weights that tell it from another; with its size."""

SHOWN = ("overall", "seconds")
"""Figures of a report that its table has elsewhere, or not at all."""


def main(
    benchmarks: list[str],
    model: str | None = "embedded",
    data: Path = Path(),
    hub: bool = False,
    split: str | None = None,
    limit: int | None = None,
    instruction: str | None = None,
    batch_size: int = 32,
    beams: int = 1,
    baselines: bool = False,
    endpoint: str | None = None,
    name: str | None = None,
    concurrency: int = 8,
    prices: str | None = None,
    compare: str | None = None,
    output: Path = Path("runs/eval"),
    json: bool = False,
) -> None:
    """Ask a model the questions of benchmarks, and score its answers.

    Args:
        benchmarks: their names, or JSON-lines files of captions or questions of one's own; with
            `compare`, the run to compare with.
        model: who answers: `embedded`, a checkpoint folder, a LLaVA folder or hub id; null is
            nobody, for `baselines` or an endpoint alone.
        data: folder that holds a folder for each benchmark.
        hub: take the questions from the Hugging Face hub instead.
        split: that is asked; each benchmark's own choice without it.
        limit: only the first questions; all of them without it.
        instruction: a line behind each question of one's own files, such as "Answer the question
            using a single word or phrase."; benchmarks have their own.
        batch_size: questions answered at a time, by each process.
        beams: above 1 searches for the most probable answer (beam search).
        baselines: also ask the model without the photos, and always give the answer that is right
            most often.
        endpoint: OpenAI-compatible address, such as http://localhost:8000/v1, whose model is asked
            too; its key is read from OPENAI_API_KEY.
        name: of the endpoint's model.
        concurrency: requests to the endpoint under way at a time.
        prices: dollars for a million tokens of the endpoint's input and output, such as 2.5,10.
        compare: folder of a run, OUTPUT/BENCHMARK/WHO, to compare with another.
        output: folder of all runs; one that was killed goes on where it was.
        json: print JSON instead of tables.
    """
    console = Console(highlight=False)
    if compare is not None:
        if len(benchmarks) != 1:
            raise ConfigError("--compare needs two folders: vlm eval --compare FIRST SECOND")
        first, second = Path(compare), Path(benchmarks[0])
        result = comparison.compare(first, second)
        if json:
            print(dumps(result, default=vars))
        else:
            comparison.show(first, second, result, console)
        return
    chosen = [benchmark_of(each, instruction) for each in benchmarks]
    if not chosen:
        raise ConfigError(f"which benchmark? There are: {', '.join(BENCHMARKS)}")
    if (endpoint is None) != (name is None):
        raise ConfigError("--endpoint and --name go together: an address and the model there")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, not {limit}")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    # Without being told, accelerate takes processes on CPUs each for the only one.
    state = PartialState(cpu=not torch.cuda.is_available())
    # All data first: what is missing should not end a run of hours.
    asked = {each.name: each.questions(data, split, hub)[:limit] for each in chosen}
    answerers: dict[str, Callable[[list[Question]], Answerer]] = {}
    if model is not None:
        loaded = vlm.load(model, device=str(state.device))
        label = Path(model).name if Path(model).exists() else model
        answerers[label] = lambda _: ModelAnswerer(loaded, beams)
        if baselines:
            answerers[f"{label}, question only"] = lambda _: BlindAnswerer(loaded, beams)
    if baselines:
        answerers["majority answer"] = MajorityAnswerer
    remote = None
    if endpoint is not None and name is not None:
        key = os.environ.get("OPENAI_API_KEY")
        remote = EndpointAnswerer(endpoint, name, key, concurrency)
        answerers[name] = lambda _: remote
    if not answerers:
        raise ConfigError("nobody to ask: give --model, --baselines or --endpoint")
    settings = {"limit": limit, "beams": beams, "weights": weights_of(model)}
    reports = []
    for benchmark in chosen:
        questions = asked[benchmark.name]
        rows = [
            run(benchmark, questions, split, who, make, settings, output, batch_size)
            for who, make in answerers.items()
        ]
        if not state.is_main_process:
            continue
        reports += rows
        if not json:
            console.print(table_of(benchmark, rows))
    if json and state.is_main_process:
        print(dumps(reports, ensure_ascii=False))
    if remote is not None and state.is_main_process:
        Console(stderr=True, highlight=False).print(spent(remote.usage, prices))
    # A process that ends while another still talks to it can be aborted by gloo's threads.
    state.wait_for_everyone()
    state.destroy_process_group()


def benchmark_of(name: str, instruction: str | None = None) -> Benchmark:
    """The benchmark of a name, or a file of one's own.

    Raises:
        ConfigError: there is none, or it has an instruction of its own.
        DataError: a file that cannot be read.
    """
    if name.endswith(".jsonl"):
        return own(Path(name), instruction)
    if instruction is not None:
        raise ConfigError(f"--instruction is for files of your own: {name} has its own prompt")
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark '{name}'; there are: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def run(
    benchmark: Benchmark,
    questions: list[Question],
    split: str | None,
    who: str,
    make: Callable[[list[Question]], Answerer],
    settings: dict[str, Any],
    output: Path,
    batch_size: int,
) -> dict[str, Any]:
    """One who answers one benchmark.

    Args:
        benchmark: what is asked.
        questions: of it.
        split: of it; None is its first.
        who: answers, for tables and the folder's name.
        make: who answers, from the questions.
        settings: that a run to go on with must have, too.
        output: folder of all runs.
        batch_size: questions at a time, by each process.

    Returns:
        The report; in processes other than the first nothing.

    Raises:
        DataError: a folder that holds a run with other settings, or that cannot be written.
    """
    state = PartialState()
    folder = output / benchmark.name / re.sub(r"[^\w.-]+", "-", who)
    split = split or benchmark.splits[0]
    if state.is_main_process:
        begin(folder, {"split": split, **settings})
    console = Console(stderr=True, highlight=False)
    began = time.perf_counter()
    predictions = answer_all(
        benchmark, questions, make(questions), folder / "predictions.jsonl", batch_size, console
    )
    if not state.is_main_process:
        return {}
    more = {"seconds": round(time.perf_counter() - began, 1), **settings}
    worth, report = write_report(folder, benchmark, split, who, questions, predictions, more)
    title = f"{benchmark.title}, {split}"
    write_page(folder / "report.html", title, [report], questions, predictions, worth)
    return report


def begin(folder: Path, settings: dict[str, Any]) -> None:
    """Makes a run's folder, or finds it as it was left.

    Raises:
        DataError: it holds a run with other settings, or cannot be written.
    """
    file = folder / "run.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(dumps(settings, indent=2) + "\n", encoding="utf-8")
        before = loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file}: not JSON: {error}") from error
    other = [key for key in settings if before.get(key) != settings[key]]
    if other:
        raise DataError(
            f"{folder} holds a run with another {', '.join(other)}: give another --output, or "
            "remove it"
        )


def weights_of(model: str | None) -> str | None:
    """What tells the weights of a folder from others: a hash over the ends of their files; None for
    a model that is no folder."""
    folder = Path(vlm.__file__).parent / "embedded" if model == "embedded" else Path(model or "")
    if model is None or not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with open(file, "rb") as content:
            digest.update(content.read(HASHED))
            content.seek(max(0, size - HASHED))
            digest.update(content.read(HASHED))
    return digest.hexdigest()


def table_of(benchmark: Benchmark, reports: list[dict[str, Any]]) -> Table:
    """Everyone's score, and their scores in each group."""
    first = reports[0]
    table = Table(
        title=escape(f"{benchmark.title}, {first['split']}, {first['questions']:,} asked")
    )
    table.add_column("")
    for report in reports:
        table.add_column(escape(report["who"]), justify="right")
    table.add_row("overall", *(f"{report['overall']:.2f}" for report in reports))
    table.add_row(
        "95% interval", *("{:.2f} to {:.2f}".format(*report["interval_95"]) for report in reports)
    )
    for name in (n for n, value in first.items() if type(value) is float and n not in SHOWN):
        table.add_row(name, *(f"{report[name]:.2f}" for report in reports))
    table.add_row("not answered", *(str(report["failed"]) for report in reports))
    for name, groups in first.items():
        if not isinstance(groups, dict):
            continue
        table.add_section()
        for group in groups:
            values = (report.get(name, {}).get(group) for report in reports)
            table.add_row(
                escape(f"{name.removeprefix('per_')}: {group}"),
                *("" if value is None else f"{value:.2f}" for value in values),
            )
    return table


def spent(usage: Usage, prices: str | None) -> str:
    """What the endpoint counted, and what that costs.

    Raises:
        ConfigError: prices that are not two numbers.
    """
    told = (
        f"{usage.requests:,} answers, {usage.prompt_tokens:,} tokens in, "
        f"{usage.completion_tokens:,} tokens out"
    )
    if prices is None:
        return told
    try:
        for_input, for_output = (float(price) for price in prices.split(","))
    except ValueError as error:
        raise ConfigError(f"prices are two numbers, such as 2.5,10, not {prices}") from error
    cost = (usage.prompt_tokens * for_input + usage.completion_tokens * for_output) / 1e6
    return f"{told}, {cost:.2f} dollars"

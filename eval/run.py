"""`vlm eval`: benchmarks, answered and scored, with what could be had for less beside them."""

import hashlib
import os
import re
import sys
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
from eval.benchmark import Benchmark
from eval.benchmarks import BENCHMARKS
from eval.benchmarks.own import own
from eval.endpoint import EndpointAnswerer, Usage
from eval.page import write_page
from eval.question import Question
from eval.report import write_report
from eval.runner import answer_all, answered
from vlm.errors import ConfigError, DataError, VLMError

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
            `compare`, the run to compare with. None shows which there are.
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

    Raises:
        ConfigError: options that do not go together.
        DataError: data that is not there or broken, or a folder that holds another run.
        VLMError: a model that cannot be loaded, or somebody who answered nothing.
    """
    console = Console(highlight=False)
    if compare is not None:
        show_comparison(compare, benchmarks, json, console)
        return
    if not benchmarks:
        if json:
            print(dumps(catalogue(), ensure_ascii=False))
        else:
            console.print(table_of_benchmarks())
        return
    chosen = [benchmark_of(each, instruction) for each in benchmarks]
    if (endpoint is None) != (name is None):
        raise ConfigError("--endpoint and --name go together: an address and the model there")
    if prices is not None and endpoint is None:
        raise ConfigError("--prices goes with --endpoint: nobody else counts tokens")
    costs = None if prices is None else prices_of(prices)
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, not {limit}")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    # Without being told, accelerate takes processes on CPUs each for the only one.
    state = PartialState(cpu=not torch.cuda.is_available())
    # All data first: what is missing should not end a run of hours.
    asked = {each.name: each.questions(data, split, hub)[:limit] for each in chosen}
    answerers: dict[str, tuple[Callable[[list[Question]], Answerer], dict[str, Any]]] = {}
    settings = {"limit": limit}
    if model is not None:
        loaded = vlm.load(model, device=str(state.device))
        label = label_of(model)
        ours = {**settings, "beams": beams, "weights": weights_of(model)}
        answerers[label] = (lambda _: ModelAnswerer(loaded, beams)), ours
        if baselines:
            answerers[f"{label}, question only"] = (lambda _: BlindAnswerer(loaded, beams)), ours
    if baselines:
        answerers["majority answer"] = MajorityAnswerer, settings
    remote = None
    if endpoint is not None and name is not None:
        key = os.environ.get("OPENAI_API_KEY")
        remote = EndpointAnswerer(endpoint, name, key, concurrency)
        if name in answerers:
            raise ConfigError(
                f"--model and --name are both called {name}: ask the endpoint alone, with "
                "--model null and another --output"
            )
        answerers[name] = (lambda _: remote), settings
    if not answerers:
        raise ConfigError("nobody to ask: give --model, --baselines or --endpoint")
    reports = []
    for benchmark in chosen:
        questions = asked[benchmark.name]
        rows = [
            run(benchmark, questions, split, who, make, tied_to, output, batch_size)
            for who, (make, tied_to) in answerers.items()
        ]
        if not state.is_main_process:
            continue
        reports += [report for report, _ in rows]
        if not json:
            console.print(table_of(benchmark, [report for report, _ in rows]))
        for line in (line for _, notes in rows for line in notes):
            print(line, file=sys.stderr if json else sys.stdout)
    if json and state.is_main_process:
        print(dumps(reports, ensure_ascii=False))
    if remote is not None and state.is_main_process:
        Console(stderr=True, highlight=False).print(spent(remote.usage, costs))
    # A process that ends while another still talks to it can be aborted by gloo's threads.
    state.wait_for_everyone()
    state.destroy_process_group()
    silent = [each for each in reports if each["failed"] == len(asked[each["benchmark"]])]
    if silent:
        names = ", ".join(f"{each['who']} to {each['benchmark']}" for each in silent)
        raise VLMError(
            f"not one answer of {names}: put the reason right, and the same command asks again"
        )


def show_comparison(first: str, others: list[str], json: bool, console: Console) -> None:
    """Prints how two runs differ.

    Raises:
        ConfigError: not two of them.
        DataError: a folder that holds no run, or runs of other questions.
    """
    if len(others) != 1:
        raise ConfigError("--compare needs two folders: vlm eval --compare FIRST SECOND")
    folders = Path(first), Path(others[0])
    result = comparison.compare(*folders)
    if json:
        print(dumps(result, default=vars))
    else:
        comparison.show(*folders, result, console)


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
) -> tuple[dict[str, Any], list[str]]:
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
        The report, and lines to print under it; in processes other than the first nothing.

    Raises:
        DataError: a folder that holds a run with other settings, or that cannot be written.
    """
    state = PartialState()
    folder = output / benchmark.name / re.sub(r"[^\w.-]+", "-", who)
    split = split or benchmark.splits[0]
    file = folder / "predictions.jsonl"
    there, seconds = 0, 0.0
    if state.is_main_process:
        begin(folder, {"split": split, **settings})
        there = len(answered(file, questions))
        # What a killed run took is not known.
        seconds = seconds_of(folder / "report.json") if there else 0.0
    console = Console(stderr=True, highlight=False)
    began = time.perf_counter()
    predictions = answer_all(benchmark, questions, make(questions), file, batch_size, console)
    if not state.is_main_process:
        return {}, []
    if there < len(questions):
        seconds += time.perf_counter() - began
    more = {"seconds": round(seconds, 1), **settings}
    worth, report = write_report(folder, benchmark, split, who, questions, predictions, more)
    title = f"{benchmark.title}, {split}"
    page = folder / "report.html"
    write_page(page, title, [report], questions, predictions, worth)
    told = f"{who}: {page}"
    if there:
        told += f", {there:,} of {len(questions):,} answers were there already"
    errors = [one.error for one in predictions if one.error is not None]
    failed = f"{who}: {len(errors):,} of {len(questions):,} not answered, the first: "
    return report, [*(failed + error for error in errors[:1]), told]


def seconds_of(file: Path) -> float:
    """What a run took, by its report; 0 if there is none.

    Raises:
        DataError: a file that is no report.
    """
    try:
        return float(loads(file.read_text(encoding="utf-8"))["seconds"])
    except FileNotFoundError:
        return 0.0
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not the report of a run: remove it") from error


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
    # A key that only one of them has tells a model's run from an endpoint's of the same name.
    keys = [*settings, *(key for key in before if key not in settings)]
    other = [
        f"{'other' if key.endswith('s') else 'another'} {key}"
        for key in keys
        if before.get(key) != settings.get(key)
    ]
    if other:
        raise DataError(
            f"{folder} holds a run with {', '.join(other)}: give another --output, or remove it"
        )


def label_of(model: str) -> str:
    """What a model is called in tables and folders: a folder by its name, the `checkpoint` of a
    training run by that of the run, and what is no folder as it was given."""
    if not Path(model).exists():
        return model
    # Else `.` would have no name, and `checkpoint` no folder that it is in.
    folder = Path(os.path.abspath(model))
    run = folder.parent.name if folder.name == "checkpoint" else ""
    return run or folder.name


def weights_of(model: str) -> str | None:
    """What tells the weights of a folder from others: a hash over the ends of their files; None for
    a model that is no folder."""
    folder = Path(vlm.__file__).parent / "embedded" if model == "embedded" else Path(model)
    if not folder.is_dir():
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


def catalogue() -> list[dict[str, str | None]]:
    """Every benchmark with what to put into which folder, and where it is on the hub; None where it
    needs no folder, or is not there."""
    return [
        {
            "benchmark": each.name,
            "title": each.title,
            "folder": None if each.layout is None else each.folder or each.name,
            "content": each.layout,
            "hub": each.hub and each.hub.id,
        }
        for each in BENCHMARKS.values()
    ]


def table_of_benchmarks() -> Table:
    """The catalogue to read."""
    table = Table(title="vlm eval BENCHMARK ... --data DATA", show_lines=True)
    table.add_column("benchmark", no_wrap=True)
    table.add_column("title, metric; what it needs", overflow="fold")
    for each in catalogue():
        needs = "pip install 'vlm[eval]'"
        if each["folder"] is not None:
            needs = f"DATA/{each['folder']}/: {each['content']}"
        hub = "" if each["hub"] is None else f"\nor --hub: {each['hub']}"
        table.add_row(each["benchmark"], escape(f"{each['title']}\n{needs}{hub}"))
    table.add_row("FILE.jsonl", "questions or captions of your own")
    return table


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


def prices_of(prices: str) -> tuple[float, float]:
    """Dollars for a million tokens of input and output, from `--prices`.

    Raises:
        ConfigError: they are not two numbers.
    """
    try:
        for_input, for_output = (float(price) for price in prices.split(","))
    except ValueError as error:
        raise ConfigError(f"prices are two numbers, such as 2.5,10, not {prices}") from error
    return for_input, for_output


def spent(usage: Usage, prices: tuple[float, float] | None) -> str:
    """What the endpoint counted, and what that costs at the prices of `prices_of`."""
    told = (
        f"{usage.requests:,} answers, {usage.prompt_tokens:,} tokens in, "
        f"{usage.completion_tokens:,} tokens out"
    )
    if prices is None:
        return told
    for_input, for_output = prices
    cost = (usage.prompt_tokens * for_input + usage.completion_tokens * for_output) / 1e6
    return f"{told}, {cost:.2f} dollars"

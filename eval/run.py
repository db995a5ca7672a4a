"""`vlm eval`: benchmarks, answered and scored, with what could be had for less beside them."""

import os
import re
import shlex
import sys
import time
from dataclasses import fields
from inspect import signature
from json import dumps
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import PartialState
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import vlm
from eval.answerers import (
    BlindAnswerer,
    MajorityAnswerer,
    ModelAnswerer,
    Who,
    label_of,
    weights_of,
)
from eval.benchmark import Benchmark
from eval.benchmarks import BENCHMARKS
from eval.benchmarks.own import own
from eval.catalogue import show_catalogue
from eval.compare import show_comparison
from eval.endpoint import EndpointAnswerer
from eval.predictions import Prediction, answer_all, answered
from eval.published import ask_as_published
from eval.question import Question
from eval.report import begin, figures, seconds_of, write_report
from eval.report_page import write_page
from vlm.data.source import Columns
from vlm.errors import ConfigError, VLMError, shortened

COLUMNS = Columns()


def evaluate(
    benchmarks: list[str],
    model: str | None = "embedded",
    data: Path = Path(),
    hub: bool = False,
    split: str | None = None,
    limit: int | None = None,
    instruction: str | None = None,
    images: Path | None = None,
    annotations: Path | None = None,
    columns: Columns = COLUMNS,
    load_in: Literal["4bit", "8bit"] | None = None,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
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
        benchmarks: their names, or your own captions or questions: whatever `data: [{path: ...}]`
            of training may be; with `compare`, the run to compare with. None shows which there are.
        model: who answers: `embedded`, a checkpoint folder, a LLaVA folder or hub id (LLaVA-1.5 in
            its published words, Vicuna's with their system message); null is nobody, for
            `baselines` or an endpoint alone.
        data: folder that holds a folder for each benchmark.
        hub: take the questions from the Hugging Face hub instead.
        split: that is asked; each benchmark's own choice without it.
        limit: only the first questions; all of them without it.
        instruction: a line behind each question of your own data, such as "Answer the question
            using a single word or phrase."; benchmarks have their own.
        images: folder that the image paths of your own data start from.
        annotations: VQA v2's answers, beside its questions as a file of your own.
        columns: names of the columns of your own tables, such as `--columns.question q`.
        load_in: the language model's weights in 4 or 8 bits, through bitsandbytes.
        device: such as `cpu` or `cuda:1`; null is CUDA where there is one, else the CPU.
        dtype: of the weights; null is bfloat16 on CUDA, float32 on the CPU.
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
        output: folder of all runs; one that was killed is resumed.
        json: print JSON instead of tables.
    """
    command = command_of(locals())
    if compare is not None:
        return show_comparison(compare, benchmarks, json)
    if not benchmarks:
        return show_catalogue(json)
    for option, value in {"limit": limit, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise ConfigError(f"{option} must be at least 1, not {value}")
    settings = {"instruction": instruction, "images": images, "annotations": annotations}
    settings |= {"columns": None if columns == COLUMNS else columns}
    given = {option: value for option, value in settings.items() if value is not None}
    chosen = [benchmark_of(each, **given) for each in benchmarks]
    server = server_of(endpoint, name, concurrency, prices)
    # All data first: what is missing should not end a run of hours.
    asked = [(each, each.questions(data, split, hub)[:limit]) for each in chosen]
    loading = {"load_in": load_in, "device": device, "dtype": dtype}
    everyone = all_who_answer(model, loading, beams, baselines, server)
    silent = run_all(asked, everyone, split, limit, output, batch_size, command, json)
    finish(server, silent)


def command_of(settings: dict[str, Any]) -> str:
    """The command that gives `evaluate` these settings, those that are not the default's; without
    the password that an address may have."""
    words = ["vlm", "eval", *settings["benchmarks"]]
    for name, parameter in signature(evaluate).parameters.items():
        if name != "benchmarks":
            words += options(f"--{name}", settings[name], parameter.default)
    return re.sub("(?<=://)[^/@ ]*@", "", shlex.join(words))


def options(name: str, value: Any, default: Any) -> list[str]:
    """The words that set an option, none for its default; of columns, each its own."""
    if isinstance(value, Columns):
        pairs = [(one.name, getattr(value, one.name), one.default) for one in fields(value)]
        return [word for inner, *rest in pairs for word in options(f"{name}.{inner}", *rest)]
    if value == default:
        return []
    return [name] if value is True else [name, "null" if value is None else str(value)]


def benchmark_of(name: str, **settings: Any) -> Benchmark:
    """The benchmark of a name, or data of one's own with its settings; a ConfigError if there is
    none, or it takes no settings."""
    # A file, a pattern of files or the id of a data set has one of these marks.
    if name not in BENCHMARKS and (os.path.exists(name) or re.search(r"[./*?\[{]", name)):
        return own(Path(name), **settings)
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark '{name}'; there are: {', '.join(BENCHMARKS)}")
    if settings:
        option = next(iter(settings))
        raise ConfigError(f"--{option} is for data of your own: {name} has its own")
    return BENCHMARKS[name]


def server_of(
    endpoint: str | None, name: str | None, concurrency: int, prices: str | None
) -> EndpointAnswerer | None:
    """The server that is asked, if any; a ConfigError for options that do not go together."""
    if (endpoint is None) != (name is None):
        raise ConfigError("--endpoint and --name go together: an address and the model there")
    if endpoint is None or name is None:
        if prices is not None:
            raise ConfigError("--prices goes with --endpoint: nobody else counts tokens")
        return None
    return EndpointAnswerer(endpoint, name, os.environ.get("OPENAI_API_KEY"), concurrency, prices)


def all_who_answer(
    model: str | None,
    loading: dict[str, str | None],
    beams: int,
    baselines: bool,
    server: EndpointAnswerer | None,
) -> list[Who]:
    """Everyone who is asked, the model loaded; a ConfigError for nobody, or two of one name."""
    # Without being told, accelerate takes processes on CPUs each for the only one.
    state = PartialState(cpu=loading["device"] == "cpu" or not torch.cuda.is_available())
    everyone = []
    if model is not None:
        loaded, label = load(model, state, **loading), label_of(model)
        settings = {"beams": beams, "weights": weights_of(model)}
        settings |= {name: loading[name] for name in ("load_in", "dtype")}
        if ask_as_published(loaded, model):
            settings["prompt"] = "vicuna"
            told = f"{label}: asked in Vicuna's words, as in LLaVA-1.5's evaluation"
            if state.is_main_process:
                print(told, file=sys.stderr)
        everyone.append(Who(label, lambda _: ModelAnswerer(loaded, beams), settings))
        if baselines:
            blind = f"{label}, question only"
            everyone.append(Who(blind, lambda _: BlindAnswerer(loaded, beams), settings))
    if baselines:
        everyone.append(Who("majority answer", MajorityAnswerer))
    if server is not None:
        if any(who.label == server.name for who in everyone):
            raise ConfigError(
                f"--model and --name are both called {server.name}: ask the endpoint alone, with "
                "--model null and another --output"
            )
        everyone.append(Who(server.name, lambda _: server))
    if not everyone:
        raise ConfigError("nobody to ask: give --model, --baselines or --endpoint")
    return everyone


def load(
    model: str,
    state: PartialState,
    load_in: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> vlm.VisionLanguageModel:
    """The model of this process; a ConfigError for one device for several processes."""
    if device not in (None, state.device.type) and state.num_processes > 1:
        raise ConfigError(f"--device {device} is for one process: of several, each has its own")
    if device is None or state.num_processes > 1:
        device = str(state.device)
    return vlm.load(model, device, getattr(torch, dtype) if dtype else None, load_in)


def finish(server: EndpointAnswerer | None, silent: list[str]) -> None:
    """Tells what the server counted, and a VLMError of those who gave not one answer."""
    state = PartialState()
    if server is not None and state.is_main_process:
        Console(stderr=True, highlight=False).print(server.spent())
    # A process that ends while another still talks to it can be aborted by gloo's threads.
    state.wait_for_everyone()
    state.destroy_process_group()
    if silent:
        raise VLMError(
            f"not one answer of {', '.join(silent)}: put the reason right, and the same command "
            "asks again"
        )


class Run(NamedTuple):
    """The answers of one to one benchmark, what each is worth, and lines to print under the
    scores."""

    report: dict[str, Any]
    predictions: list[Prediction]
    worth: list[float]
    page: Path
    lines: list[str]


def run_all(
    asked: list[tuple[Benchmark, list[Question]]],
    everyone: list[Who],
    split: str | None,
    limit: int | None,
    output: Path,
    batch_size: int,
    command: str,
    json: bool,
) -> list[str]:
    """Everyone answers every benchmark, and the first process prints the scores. Returns who gave
    not one answer to what."""
    all_reports, silent = [], []
    for benchmark, questions in asked:
        runs = []
        for who in everyone:
            folder = output / benchmark.name / re.sub(r"[^\w.-]+", "-", who.label)
            settings = {"split": split or benchmark.splits[0], "limit": limit, **who.settings}
            run = run_one(benchmark, questions, who, settings, folder, batch_size, command)
            if run is not None:
                runs.append(run)
        reports = [run.report for run in runs]
        for run in runs:
            # Each page has the figures of all.
            others = [report for report in reports if report is not run.report]
            write_page(run.page, [run.report, *others], questions, run.predictions, run.worth)
            if run.report["failed"] == len(questions):
                silent.append(f"{run.report['who']} to {benchmark.name}")
        if reports and not json:
            Console(highlight=False).print(table_of(reports))
        for line in (line for run in runs for line in run.lines):
            print(shortened(line, 300), file=sys.stderr if json else sys.stdout)
        all_reports += reports
    if json and all_reports:
        print(dumps(all_reports, ensure_ascii=False))
    return silent


def run_one(
    benchmark: Benchmark,
    questions: list[Question],
    who: Who,
    settings: dict[str, Any],
    folder: Path,
    batch_size: int,
    command: str,
) -> Run | None:
    """One who answers one benchmark, resumed if `folder` has the beginning; in processes other than
    the first None."""
    first = PartialState().is_main_process
    file, page = folder / "predictions.jsonl", folder / "report.html"
    there, seconds = 0, 0.0
    if first:
        begin(folder, settings)
        there = len(answered(file, questions))
        # What a killed run took is not known.
        seconds = seconds_of(folder) if there else 0.0
    began = time.perf_counter()
    predictions = answer_all(benchmark, questions, who.make(questions), file, batch_size)
    if not first:
        return None
    if there < len(questions):
        seconds += time.perf_counter() - began
    report, worth = write_report(
        folder, benchmark, who.label, settings, command, seconds, questions, predictions
    )
    errors = [one.error for one in predictions if one.error is not None]
    failed = f"{who.label}: {len(errors):,} of {len(questions):,} not answered, the first: "
    told = f"{who.label}: {page}"
    if there:
        told += f", {there:,} of {len(questions):,} answers were there already"
    lines = [*(failed + error for error in errors[:1]), told]
    return Run(report, predictions, worth, page, lines)


def table_of(reports: list[dict[str, Any]]) -> Table:
    """Everyone's score, and their scores in each group."""
    first = reports[0]
    asked = f"{first['title']}, {first['split']}, {first['questions']:,} asked"
    table = Table("", title=escape(asked), caption=first.get("note"))
    for report in reports:
        table.add_column(escape(report["who"]), justify="right")
    for part in figures(reports):
        for name, values in part:
            table.add_row(escape(name), *values)
        table.add_section()
    return table

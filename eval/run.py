"""`vlm eval`: benchmarks, answered and scored, with what could be had for less beside them."""

import os
import re
import shlex
import sys
import time
from dataclasses import fields
from difflib import get_close_matches
from json import dumps
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from rich.console import Console

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
from eval.config import EvalConfig, is_own
from eval.endpoint import EndpointAnswerer
from eval.predictions import Prediction, answer_all, answered
from eval.published import ask_as_published
from eval.question import Question
from eval.report import begin, seconds_of, write_report
from eval.report_page import write_page
from eval.table import table_of
from vlm.data.source import Columns
from vlm.errors import ConfigError, VLMError, shortened
from vlm.settings import default_of

OWN = (
    *("instruction", "format", "images", "outside", "annotations"),
    *("subset", "columns", "caption_per_line"),
)
"""Settings of data of one's own."""


def evaluate(config: EvalConfig) -> None:
    """Asks everyone the questions of every benchmark, and prints the scores; with `compare`, or
    without benchmarks, shows two runs or the list of benchmarks instead."""
    if config.compare is not None:
        return show_comparison(config.compare, config.benchmarks, config.json)
    if not config.benchmarks:
        return show_catalogue(config.json)
    chosen = [benchmark_of(name, config) for name in config.benchmarks]
    server, key = None, os.environ.get("OPENAI_API_KEY")
    if config.endpoint is not None:
        server = EndpointAnswerer(
            config.endpoint, config.name, key, config.concurrency, config.prices
        )
    # All data first: what is missing should not end a run of hours.
    asked = [(each, each.questions(config.data, config.split, config.hub)) for each in chosen]
    everyone = all_who_answer(config, server)
    finish(server, run_all(asked, everyone, config))


def command_of(config: EvalConfig) -> str:
    """The command with these settings, those that are not the default's; without the password that
    an address may have."""
    words = ["vlm", "eval", *config.benchmarks]
    for each in fields(config)[1:]:
        default = default_of(each)
        words += options(f"--{each.name}", getattr(config, each.name), default)
    return re.sub("(?<=://)[^/@ ]*@", "", shlex.join(words))


def options(name: str, value: Any, default: Any) -> list[str]:
    """The words that set an option, none for its default; of columns, each its own."""
    if isinstance(value, Columns):
        pairs = [(one.name, getattr(value, one.name), one.default) for one in fields(value)]
        return [word for inner, *rest in pairs for word in options(f"{name}.{inner}", *rest)]
    if value == default:
        return []
    return [name] if value is True else [name, "null" if value is None else str(value)]


def benchmark_of(name: str, config: EvalConfig) -> Benchmark:
    """The benchmark of a name, or data of one's own with its settings; a ConfigError if there is
    none, or it takes no settings."""
    values = {option: getattr(config, option) for option in OWN}
    unset = (None, False, Columns())
    given = {option: value for option, value in values.items() if value not in unset}
    if name in BENCHMARKS and given:
        raise ConfigError(f"--{next(iter(given))} is for data of your own: {name} has its own")
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if is_own(name):
        return own(Path(name), **given)
    if meant := get_close_matches(name, BENCHMARKS, 1):
        raise ConfigError(f"no benchmark '{name}': did you mean {meant[0]}?")
    raise ConfigError(f"no benchmark '{name}'; there are: {', '.join(BENCHMARKS)}")


def all_who_answer(config: EvalConfig, server: EndpointAnswerer | None) -> list[Who]:
    """Everyone who is asked, the model loaded; a ConfigError for nobody, or two of one name."""
    # Without being told, accelerate takes processes on CPUs each for the only one.
    state = PartialState(cpu=config.device == "cpu" or not torch.cuda.is_available())
    everyone, how = [], (config.beams, config.batch_size)
    if config.model is not None:
        loaded, label = load(config.model, state, config), label_of(config.model)
        settings = {"beams": config.beams, "weights": weights_of(config.model)}
        settings |= {"load_in": config.load_in, "dtype": config.dtype}
        if ask_as_published(loaded, config.model):
            settings["prompt"] = "vicuna"
            told = f"{label}: asked in Vicuna's words, as in LLaVA-1.5's evaluation"
            if state.is_main_process:
                print(told, file=sys.stderr)
        everyone.append(Who(label, lambda _: ModelAnswerer(loaded, *how), settings))
        if config.baselines:
            blind = f"{label}, question only"
            everyone.append(Who(blind, lambda _: BlindAnswerer(loaded, *how), settings))
    if config.baselines:
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


def load(model: str, state: PartialState, config: EvalConfig) -> vlm.VisionLanguageModel:
    """The model of this process; a ConfigError for one device for several processes."""
    device = config.device
    if device not in (None, state.device.type) and state.num_processes > 1:
        raise ConfigError(f"--device {device} is for one process: of several, each has its own")
    if device is None or state.num_processes > 1:
        device = str(state.device)
    dtype = getattr(torch, config.dtype) if config.dtype else None
    return vlm.load(model, device, dtype, config.load_in)


def finish(server: EndpointAnswerer | None, silent: list[str]) -> None:
    """Tells what the server counted, and a VLMError of those who gave not one answer."""
    state = PartialState()
    if server is not None and state.is_main_process:
        Console(stderr=True, highlight=False).print(server.spent())
    # A process that ends while another still talks to it can be aborted by gloo's threads.
    state.wait_for_everyone()
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
    config: EvalConfig,
) -> list[str]:
    """Everyone answers every benchmark, and the first process prints the scores. Returns who gave
    not one answer to what."""
    all_reports, silent = [], []
    for benchmark, questions in asked:
        questions = questions[: config.limit]
        runs = [run_one(benchmark, questions, who, config) for who in everyone]
        if not PartialState().is_main_process:
            continue
        reports = [run.report for run in runs]
        for run in runs:
            # Each page has the figures of all.
            others = [report for report in reports if report is not run.report]
            write_page(run.page, [run.report, *others], questions, run.predictions, run.worth)
            if run.report["failed"] == len(questions):
                silent.append(f"{run.report['who']} to {benchmark.name}")
        if not config.json:
            title = f"{benchmark.title}, {reports[0]['split']}, {len(questions):,} asked"
            table = table_of(title, [report["who"] for report in reports], reports)
            Console(highlight=False).print(table)
        for line in (line for run in runs for line in run.lines):
            print(shortened(line, 300), file=sys.stderr if config.json else sys.stdout)
        all_reports += reports
    if config.json and all_reports:
        print(dumps(all_reports, ensure_ascii=False))
    return silent


def run_one(
    benchmark: Benchmark, questions: list[Question], who: Who, config: EvalConfig
) -> Run | None:
    """One who answers one benchmark, resumed if there is a folder with the beginning; in processes
    other than the first None."""
    folder = config.output / benchmark.name / re.sub(r"[^\w.-]+", "-", who.label)
    file, page = folder / "predictions.jsonl", folder / "report.html"
    settings = {"split": config.split or benchmark.splits[0], "limit": config.limit}
    settings |= who.settings
    first = PartialState().is_main_process
    there, seconds = 0, 0.0
    if first:
        begin(folder, settings)
        there = len(answered(file, questions))
        # What a killed run took is not known.
        seconds = seconds_of(folder) if there else 0.0
    began = time.perf_counter()
    predictions = answer_all(benchmark, questions, who.make(questions), file, config.batch_size)
    if not first:
        return None
    if there < len(questions):
        seconds += time.perf_counter() - began
    about = {"who": who.label, **settings, "seconds": round(seconds, 1)}
    about["command"] = command_of(config)
    report, worth = write_report(folder, benchmark, questions, predictions, about)
    errors = [one.error for one in predictions if one.error is not None]
    failed = f"{who.label}: {len(errors):,} of {len(questions):,} not answered, the first: "
    told = f"{who.label}: {page}"
    if there:
        told += f", {there:,} of {len(questions):,} answers were there already"
    return Run(report, predictions, worth, page, [*(failed + one for one in errors[:1]), told])

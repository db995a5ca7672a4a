"""`vlm eval`: benchmarks, answered and scored, with what could be had for less beside them."""

import os
import re
import sys
import time
from json import dumps
from pathlib import Path
from typing import Any

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
from eval.predictions import answer_all, answered
from eval.question import Question
from eval.report import begin, seconds_of, write_report
from eval.report_page import write_page
from vlm.errors import ConfigError, VLMError, shortened

SHOWN = ("overall", "seconds")
"""Figures of a report that its table has elsewhere, or not at all."""


def evaluate(
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
        benchmarks: their names, or files and folders of your own captions or questions; with
            `compare`, the run to compare with. None shows which there are.
        model: who answers: `embedded`, a checkpoint folder, a LLaVA folder or hub id; null is
            nobody, for `baselines` or an endpoint alone.
        data: folder that holds a folder for each benchmark.
        hub: take the questions from the Hugging Face hub instead.
        split: that is asked; each benchmark's own choice without it.
        limit: only the first questions; all of them without it.
        instruction: a line behind each question of your own files, such as "Answer the question
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
        output: folder of all runs; one that was killed is resumed.
        json: print JSON instead of tables.
    """
    if compare is not None:
        return show_comparison(compare, benchmarks, json)
    if not benchmarks:
        return show_catalogue(json)
    for option, value in {"limit": limit, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise ConfigError(f"{option} must be at least 1, not {value}")
    chosen = [benchmark_of(each, instruction) for each in benchmarks]
    server = server_of(endpoint, name, concurrency, prices)
    # All data first: what is missing should not end a run of hours.
    asked = [(each, each.questions(data, split, hub)[:limit]) for each in chosen]
    everyone = all_who_answer(model, beams, baselines, server)
    silent = run_all(asked, everyone, split, limit, output, batch_size, json)
    finish(server, silent)


def benchmark_of(name: str, instruction: str | None = None) -> Benchmark:
    """The benchmark of a name, or a file or folder of one's own; a ConfigError if there is none,
    or it has an instruction of its own."""
    if name not in BENCHMARKS and (os.path.exists(name) or Path(name).suffix):
        return own(Path(name), instruction)
    if instruction is not None:
        raise ConfigError(f"--instruction is for files of your own: {name} has its own prompt")
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark '{name}'; there are: {', '.join(BENCHMARKS)}")
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
    model: str | None, beams: int, baselines: bool, server: EndpointAnswerer | None
) -> list[Who]:
    """Everyone who is asked, the model loaded; a ConfigError for nobody, or two of one name."""
    # Without being told, accelerate takes processes on CPUs each for the only one.
    state = PartialState(cpu=not torch.cuda.is_available())
    everyone = []
    if model is not None:
        loaded, label = vlm.load(model, device=str(state.device)), label_of(model)
        settings = {"beams": beams, "weights": weights_of(model)}
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


def run_all(
    asked: list[tuple[Benchmark, list[Question]]],
    everyone: list[Who],
    split: str | None,
    limit: int | None,
    output: Path,
    batch_size: int,
    json: bool,
) -> list[str]:
    """Everyone answers every benchmark, and the first process prints the scores. Returns who gave
    not one answer to what."""
    all_reports, silent = [], []
    for benchmark, questions in asked:
        reports, lines = [], []
        for who in everyone:
            folder = output / benchmark.name / re.sub(r"[^\w.-]+", "-", who.label)
            settings = {"split": split or benchmark.splits[0], "limit": limit, **who.settings}
            run = run_one(benchmark, questions, who, settings, folder, batch_size)
            if run is not None:
                report, told = run
                reports.append(report)
                lines += told
                if report["failed"] == len(questions):
                    silent.append(f"{who.label} to {benchmark.name}")
        if reports and not json:
            Console(highlight=False).print(table_of(reports))
        for line in lines:
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
) -> tuple[dict[str, Any], list[str]] | None:
    """One who answers one benchmark, resumed if `folder` has the beginning. Returns the report and
    lines to print under it; in processes other than the first nothing."""
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
        folder, benchmark, who.label, settings, seconds, questions, predictions
    )
    write_page(page, report, questions, predictions, worth)
    errors = [one.error for one in predictions if one.error is not None]
    failed = f"{who.label}: {len(errors):,} of {len(questions):,} not answered, the first: "
    told = f"{who.label}: {page}"
    if there:
        told += f", {there:,} of {len(questions):,} answers were there already"
    return report, [*(failed + error for error in errors[:1]), told]


def table_of(reports: list[dict[str, Any]]) -> Table:
    """Everyone's score, and their scores in each group."""
    first = reports[0]
    asked = f"{first['title']}, {first['split']}, {first['questions']:,} asked"
    table = Table("", title=escape(asked))
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

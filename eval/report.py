"""What a run leaves in its folder beside its answers: `run.json`, the settings that it was begun
with, `report.json`, its scores, and `scores.jsonl`, what each answer was worth."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.metrics.scores import figure
from eval.predictions import Prediction
from eval.question import Question
from vlm.data.records import read_records
from vlm.errors import DataError
from vlm.files import read_json, write_file, write_rows

SCORES = "scores.jsonl"

SHOWN = ("overall", "seconds")
"""Figures of a report that tables have elsewhere, or not at all."""


@dataclass(frozen=True)
class QuestionScore:
    """What one answer is worth, 0 to 1 (for captions the photo's CIDEr), and the question's place
    in each breakdown."""

    question_id: str
    score: float
    labels: dict[str, str]


def begin(folder: Path, settings: dict[str, Any]) -> None:
    """Writes down the settings of a run; a DataError if the folder holds one with others."""
    file = folder / "run.json"
    if not os.path.exists(file):
        write_file(file, as_text(settings))
    before = read_json(file)
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


def seconds_of(folder: Path) -> float:
    """What a run took, by its report; 0 if there is none."""
    file = folder / "report.json"
    if not os.path.exists(file):
        return 0.0
    try:
        return float(read_json(file)["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not the report of a run: remove it") from error


def write_report(
    folder: Path,
    benchmark: Benchmark,
    questions: Sequence[Question],
    predictions: Sequence[Prediction],
    about: dict[str, Any],
) -> tuple[dict[str, Any], list[float]]:
    """Scores a run's answers, one to each question, and writes the scores down beside what there is
    to say `about` the run. Returns the report, and what each answer is worth."""
    scores = benchmark.score(questions, [one.prediction for one in predictions])
    failed = sum(one.error is not None for one in predictions)
    report = {"benchmark": benchmark.name, "title": benchmark.title, **scores.to_json()}
    report |= {"failed": failed, **about}
    worth = scores.each
    if benchmark.each is not None:
        # A score of circular evaluation is of several questions.
        pairs = zip(questions, predictions, strict=True)
        worth = [benchmark.each(question, one.prediction) for question, one in pairs]
    rows = [QuestionScore(q.id, w, q.labels) for q, w in zip(questions, worth, strict=True)]
    write_rows(folder / SCORES, map(asdict, rows))
    write_file(folder / "report.json", as_text(report))
    return report, worth


def figures(reports: Sequence[dict[str, Any]]) -> list[list[tuple[str, list[str]]]]:
    """The rows of a table of scores, each a name and everyone's figure: those of all questions, and
    behind them a part for each breakdown."""
    intervals = [report["interval_95"] for report in reports]
    whole = {
        "overall": [figure(report["overall"]) for report in reports],
        "95% interval": ["{:.2f} to {:.2f}".format(*two) if two else "" for two in intervals],
    }
    breakdowns = {}
    # Of names that several have, the first one's value counts.
    named = {name: value for report in reversed(reports) for name, value in report.items()}
    for name, value in named.items():
        if isinstance(value, dict):
            of_each = [report.get(name, {}) for report in reports]
            label = f"{name.removeprefix('per_')}: "
            breakdowns[name] = {label + group: in_cells(of_each, group) for group in value}
        elif type(value) is float and name not in SHOWN:
            whole[name] = in_cells(reports, name)
    whole["not answered"] = [str(report["failed"]) for report in reports]
    return [list(part.items()) for part in (whole, *breakdowns.values())]


def in_cells(of_each: Sequence[dict[str, Any]], name: str) -> list[str]:
    """Everyone's figure of a name; some have none, such as the consistency of no right answer."""
    return [f"{one[name]:.2f}" if name in one else "" for one in of_each]


def as_text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_scores(folder: Path) -> dict[str, QuestionScore]:
    """What each answer of a run was worth, by the id of its question."""
    file = folder / SCORES
    try:
        records = read_records(file, ("question_id", "score", "labels"))
        return {each.content["question_id"]: QuestionScore(**each.content) for each in records}
    except TypeError as error:
        raise DataError(f"{file}: not the scores of a run") from error

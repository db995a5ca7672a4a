"""What a run leaves in its folder beside its answers: `run.json`, the settings that it was begun
with, `report.json`, its scores, and `scores.jsonl`, what each answer was worth."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.predictions import Prediction
from eval.question import Question
from vlm.data.records import read_records
from vlm.errors import DataError
from vlm.files import read_json, write_file, write_rows

SCORES = "scores.jsonl"


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

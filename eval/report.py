"""What a run on a benchmark leaves: `report.json`, and what each question was worth."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.predictions import Prediction
from eval.question import Question
from vlm.data.captioned import read_records, write_records
from vlm.errors import DataError

SCORES = "scores.jsonl"


@dataclass(frozen=True)
class QuestionScore:
    """What one answer is worth.

    Attributes:
        question_id: the question's.
        score: 0 to 1; for captions the photo's CIDEr.
        labels: the question's place in each breakdown.
    """

    question_id: str
    score: float
    labels: dict[str, str]


def write_report(
    folder: Path,
    benchmark: Benchmark,
    split: str,
    who: str,
    questions: Sequence[Question],
    predictions: Sequence[Prediction],
    more: dict[str, Any],
) -> tuple[list[float], dict[str, Any]]:
    """Scores a run's answers, and writes `report.json` and `scores.jsonl`.

    Args:
        folder: of the run.
        benchmark: that was asked.
        split: of it.
        who: answered.
        questions: all of them.
        predictions: an answer to each.
        more: further entries of the report.

    Returns:
        What each question was worth, and the report.

    Raises:
        DataError: a file that cannot be written.
    """
    scores = benchmark.score(list(questions), [one.prediction for one in predictions])
    failed = [one for one in predictions if one.error is not None]
    report = {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "split": split,
        "who": who,
        **scores.to_json(),
        "failed": len(failed),
        **more,
    }
    worth = scores.each
    if benchmark.each is not None:
        # A score of circular evaluation is of several questions.
        worth = [
            benchmark.each(q, one.prediction) for q, one in zip(questions, predictions, strict=True)
        ]
    pairs = zip(questions, worth, strict=True)
    write_records(
        folder / SCORES, (asdict(QuestionScore(q.id, each, q.labels)) for q, each in pairs)
    )
    try:
        aside = folder / "report.json.partial"
        aside.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(aside, folder / "report.json")
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror}") from error
    return worth, report


def read_scores(file: Path) -> dict[str, QuestionScore]:
    """What each question was worth, by its id.

    Raises:
        DataError: no such file, or one that is not a run's.
    """
    try:
        records = read_records(file, ("question_id", "score", "labels"))
        return {r["question_id"]: QuestionScore(**r) for _, r in records}
    except TypeError as error:
        raise DataError(f"{file}: not the scores of a run") from error

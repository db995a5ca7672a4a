"""SEED-Bench (Li et al. 2023): its questions about images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.benchmarks.choice import choice, is_right, score
from eval.hub import Hub, Row
from eval.question import Question
from vlm.data.records import read_records
from vlm.files import read_json

TEXTS = ("question", *(f"choice_{letter}" for letter in "abcd"), "answer")


def rows(folder: Path, split: str) -> Iterator[Row]:
    """All questions, their types by name."""
    file = folder / "SEED-Bench.json"
    found = list(read_records(file, ("question_id", "data_id", "data_type", *TEXTS), "questions"))
    whole = read_json(file)
    names = whole.get("question_type", {}) if isinstance(whole, dict) else {}
    types = {number: name for name, number in names.items()}
    for where, entry, _ in found:
        kind = types.get(entry.get("question_type_id"), "")
        image = (folder / "SEED-Bench-image", str(entry["data_id"]))
        yield Row(where, {**entry, "question_type_id": kind}, image)


def question(row: dict[str, Any], image: Any) -> list[Question]:
    """A row as it is asked, if it is about an image."""
    if row["data_type"] != "image":
        return []
    text, *options, answer = (row[name] for name in TEXTS)
    category = str(row.get("question_type_id", ""))
    return [choice(row["question_id"], image, text, options, answer, category)]


SEED_IMAGE = Benchmark(
    name="seed",
    title="SEED-Bench images, accuracy",
    splits=("all",),
    layout="SEED-Bench.json and SEED-Bench-image/",
    rows=rows,
    question=question,
    each=is_right,
    score_all=score,
    hub=Hub("lmms-lab-encoder/SEED-Bench", {"all": "test"}),
)

"""DAQUAR (Malinowski and Fritz 2014): indoor scenes, questions of people."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Row
from eval.metrics.exact import exact_match
from eval.prompts import short
from eval.question import Question, texts_in
from vlm.data.records import read_records


def rows(folder: Path, split: str) -> Iterator[Row]:
    needed = ("id", "image", "question", "answers")
    for where, entry, its_split in read_records(folder / "questions.jsonl", needed):
        if its_split == split:
            yield Row(where, entry, (folder, entry["image"]))


def question(row: dict[str, Any], image: Any) -> Question:
    """A row as it is asked; several answers are one, a set."""
    return Question(str(row["id"]), image, short(row["question"]), (", ".join(texts_in(row)),))


DAQUAR = Benchmark(
    name="daquar",
    title="DAQUAR, exact match",
    splits=("test", "train"),
    layout="questions.jsonl (id, image, question, answers, split) and images/",
    rows=rows,
    question=question,
    metric="exact match",
    each=lambda question, answer: float(exact_match(answer, question.answers[0])),
)

"""DocVQA (Mathew et al. 2021): questions about scanned documents."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub, Row
from eval.metrics.anls import anls
from eval.prompts import short
from eval.question import Question, texts_in
from vlm.data.records import read_records


def rows(folder: Path, split: str) -> Iterator[Row]:
    needed = ("questionId", "question", "image", "answers")
    for where, entry, _ in read_records(folder / f"{split}_v1.0_withQT.json", needed, "data"):
        yield Row(where, entry, (folder, entry["image"]))


def question(row: dict[str, Any], image: Any) -> Question:
    return Question(str(row["questionId"]), image, short(row["question"]), texts_in(row))


DOC_VQA = Benchmark(
    name="docvqa",
    title="DocVQA, ANLS",
    splits=("val", "train"),
    layout="val_v1.0_withQT.json and documents/",
    rows=rows,
    question=question,
    max_tokens=32,
    metric="ANLS",
    each=lambda question, answer: anls(answer, question.answers),
    hub=Hub("lmms-lab-encoder/DocVQA", {"val": "validation"}, config="DocVQA", same_image="docId"),
)

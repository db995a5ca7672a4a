"""VizWiz-VQA (Gurari et al. 2018): questions of blind people about photos they took."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub, Row
from eval.metrics.vqa import SUBMITTED, submitted_accuracy
from eval.prompts import short
from eval.question import Question, texts_in
from vlm.data.records import read_records

UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


def rows(folder: Path, split: str) -> Iterator[Row]:
    return rows_of(folder / f"{split}.json")


def rows_of(file: Path) -> Iterator[Row]:
    """The questions of a file; each photo has one, and its name is the id."""
    for where, entry, _ in read_records(file, ("image", "question", "answers")):
        image, kind = entry["image"], entry.get("answer_type")
        content = {**entry, "question_id": image, "category": kind}
        yield Row(where, content, (file.with_suffix(""), image))


def question(row: dict[str, Any], image: Any) -> Question:
    labels = {"answer_type": row["category"]} if row.get("category") else {}
    text = short(row["question"] + "\n" + UNANSWERABLE)
    return Question(str(row["question_id"]), image, text, texts_in(row, least=2), labels)


VIZWIZ = Benchmark(
    name="vizwiz",
    title="VizWiz, VQA accuracy",
    splits=("val", "train"),
    layout="val.json and val/",
    rows=rows,
    question=question,
    metric=SUBMITTED,
    each=lambda question, answer: submitted_accuracy(answer, question.answers),
    hub=Hub("lmms-lab-encoder/VizWiz-VQA", {"val": "val"}),
)

"""DocVQA (Mathew et al. 2021): questions about scanned documents, scored by how near an answer's
spelling is to the right one (ANLS, Biten et al. 2019)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub, Row
from eval.prompts import short
from eval.question import Question, texts_in
from vlm.data.records import read_records

THRESHOLD = 0.5
"""A similarity below this is worth nothing."""


def rows(folder: Path, split: str) -> Iterator[Row]:
    needed = ("questionId", "question", "image", "answers")
    for where, entry, _ in read_records(folder / f"{split}_v1.0_withQT.json", needed, "data"):
        yield Row(where, entry, (folder, entry["image"]))


def question(row: dict[str, Any], image: Any) -> Question:
    return Question(str(row["questionId"]), image, short(row["question"]), texts_in(row))


def edit_distance(first: str, second: str) -> int:
    """Insertions, deletions and substitutions between two strings (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for place, letter in enumerate(first, start=1):
        previous, row[0] = row[0], place
        for column, other in enumerate(second, start=1):
            cost = previous + (letter != other)
            previous = row[column]
            row[column] = min(cost, row[column] + 1, row[column - 1] + 1)
    return row[-1]


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Of one question, 0 to 1, as DocVQA's evaluation script has it: the best over its answers of
    one minus the edit distance as a share of the longer string, or 0 where that is less than a
    half. Case, the spaces around and how many there are between do not count in the distance; the
    longer string is that of the two as they were given."""
    best = 0.0
    said = " ".join(prediction.lower().split())
    for answer in answers:
        # The script measures capitals: "ß" counts for two.
        longer = max(len(prediction.upper()), len(answer.upper()))
        distance = edit_distance(said, " ".join(answer.lower().split()))
        best = max(best, 1 - distance / longer if longer else 1.0)
    return best if best >= THRESHOLD else 0.0


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

"""GQA (Hudson and Manning 2019): questions made from scene graphs, the balanced set, scored by the
answer itself and by whether what follows from it is answered alike."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub, Row
from eval.prompts import short
from eval.question import Question
from vlm.data.records import read_named


def rows(folder: Path, split: str) -> Iterator[Row]:
    return rows_of(folder / f"{split}_balanced_questions.json")


def rows_of(file: Path) -> Iterator[Row]:
    """The questions of a file, beside which is `images/`."""
    for number, entry in read_named(file).items():
        image = (file.parent / "images", f"{entry.get('imageId')}.jpg")
        yield Row(f"{file}: question {number}", {**entry, "id": number}, image)


def question(row: dict[str, Any], image: Any) -> Question:
    """A row as it is asked; scored with the ids of the questions that follow from it."""
    structural, semantic = row["types"]["structural"], row["types"].get("semantic")
    openness = "open" if structural == "query" else "binary"
    labels = {"openness": openness, "structural_type": structural}
    labels |= {"semantic_type": semantic} if semantic else {}
    # A list in the file, and on the hub the text of one, as in `['05', '06']`.
    entailed = tuple(re.findall(r"\w+", str(row.get("entailed") or "")))
    answers = (row["answer"],)
    return Question(str(row["id"]), image, short(row["question"]), answers, labels, entailed)


def is_right(question: Question, answer: str) -> float:
    """1 if they are the same string, once the answer is in lower case and without its final full
    stop (as LLaVA prepares its answers for the official evaluation), else 0."""
    return float(answer.strip().lower().rstrip(".") == question.answers[0])


def consistency(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """Over the questions that are answered right and entail others, the mean share of those that
    are right too. Entailed questions that were not asked are left out, and without any the figure
    is."""
    pairs = zip(questions, answers, strict=True)
    right = {one.id: is_right(one, answer) for one, answer in pairs}
    shares = []
    for one in questions:
        follow = [right[other] for other in one.scored_as if other in right and other != one.id]
        if right[one.id] and follow:
            shares.append(fmean(follow))
    return {"consistency": 100 * fmean(shares)} if shares else {}


GQA = Benchmark(
    name="gqa",
    title="GQA, accuracy",
    splits=("testdev", "val"),
    layout="testdev_balanced_questions.json and images/",
    rows=rows,
    question=question,
    metric="GQA accuracy",
    each=is_right,
    more=consistency,
    hub=Hub(
        "lmms-lab-encoder/GQA",
        {"testdev": "testdev"},
        config="testdev_balanced_instructions",
        same_image="imageId",
        images="testdev_balanced_images",
    ),
)

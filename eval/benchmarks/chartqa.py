"""ChartQA (Masry et al. 2022): questions about charts that people wrote, and some made by a model,
scored by relaxed accuracy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub, Row
from eval.prompts import short
from eval.question import Question
from vlm.data.records import read_records

TOLERANCE = 0.05


def rows(folder: Path, split: str) -> Iterator[Row]:
    for kind in ("human", "augmented"):
        file = folder / split / f"{split}_{kind}.json"
        records = read_records(file, ("query", "imgname", "label"))
        for place, (where, entry, _) in enumerate(records, start=1):
            content = {"question": entry["query"], "answer": entry["label"]}
            content |= {"id": f"{kind}_{place}", "type": kind}
            yield Row(where, content, (folder / split / "png", entry["imgname"]))


def question(row: dict[str, Any], image: Any) -> Question:
    labels = {"kind": row["type"].removesuffix("_test")}
    return Question(row["id"], image, short(row["question"]), (row["answer"],), labels)


def number_of(text: str) -> float | None:
    """The number that a text is, `12%` being 0.12; None if it is none."""
    text = text.strip()
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None


def relaxed_match(answer: str, right: str) -> bool:
    """Relaxed accuracy (Methani et al. 2020): where both are numbers and the right one is not 0, if
    the answer is not more than 5% off; else if they are the same but for case and the spaces
    around."""
    said, exact = number_of(answer), number_of(right)
    if said is not None and exact:
        return abs(said - exact) / abs(exact) <= TOLERANCE
    return answer.strip().lower() == right.strip().lower()


CHART_QA = Benchmark(
    name="chartqa",
    title="ChartQA, relaxed accuracy",
    splits=("test", "val"),
    layout="test/test_human.json, test/test_augmented.json and test/png/",
    rows=rows,
    question=question,
    metric="relaxed accuracy",
    each=lambda question, answer: float(relaxed_match(answer, question.answers[0])),
    hub=Hub("lmms-lab-encoder/ChartQA", {"test": "test"}),
)

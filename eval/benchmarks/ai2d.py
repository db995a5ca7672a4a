"""AI2D (Kembhavi et al. 2016): questions about the diagrams of school books."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.benchmarks.choice import LETTERS, choice, is_right, score
from eval.hub import Hub, Row
from eval.question import Question, texts_in
from vlm.data.records import read_named
from vlm.files import read_text


def rows(folder: Path, split: str) -> Iterator[Row]:
    """The questions of the diagrams whose numbers are in `ai2d_test_ids.csv`."""
    for name in read_text(folder / "ai2d_test_ids.csv").split():
        file = folder / "questions" / f"{Path(name).name}.png.json"
        for text, entry in read_named(file, "questions").items():
            content = {"question": text, "options": entry.get("answerTexts")}
            content["answer"] = entry.get("correctAnswer")
            content["id"] = entry.get("questionId", f"{name} {text}")
            yield Row(f"{file}: '{text}'", content, (folder / "images", f"{Path(name).name}.png"))


def question(row: dict[str, Any], image: Any) -> Question:
    options, answer = texts_in(row, "options"), LETTERS[int(row["answer"])]
    return choice(row["id"], image, row["question"], options, answer)


AI2D = Benchmark(
    name="ai2d",
    title="AI2D, accuracy",
    splits=("test",),
    layout="ai2d_test_ids.csv, questions/ and images/",
    rows=rows,
    question=question,
    each=is_right,
    score_all=score,
    hub=Hub("lmms-lab-encoder/ai2d", {"test": "test"}),
)

"""Documents and charts: DocVQA (Mathew et al. 2021) by ANLS, ChartQA (Masry et al. 2022) by relaxed
accuracy."""

from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub
from eval.metrics.anls import anls, score_anls
from eval.metrics.relaxed import relaxed_match, score_relaxed
from eval.metrics.scores import Scores
from eval.official import by_id, entries, texts
from eval.prompts import SHORT_ANSWER
from eval.question import Question, RowImage
from vlm.errors import DataError


def doc_vqa(folder: Path, split: str) -> list[Question]:
    """The questions of `val_v1.0_withQT.json`.

    Raises:
        DataError: a file that is missing or broken.
    """
    file = folder / f"{split}_v1.0_withQT.json"
    questions = []
    for number, entry in by_id(file, entries(file, "data"), "questionId").items():
        text, image = entry.get("question"), entry.get("image")
        if not isinstance(text, str) or not isinstance(image, str) or ".." in image:
            raise DataError(f"{file}: {number} needs texts 'question' and 'image'")
        answers = tuple(texts(file, number, entry))
        questions.append(Question(str(number), folder / image, f"{text}\n{SHORT_ANSWER}", answers))
    return questions


def chart_qa(folder: Path, split: str) -> list[Question]:
    """The questions that people wrote, and those made by a model.

    Raises:
        DataError: a file that is missing or broken.
    """
    questions = []
    for kind in ("human", "augmented"):
        file = folder / split / f"{split}_{kind}.json"
        for place, entry in enumerate(entries(file), start=1):
            text, image, label = (entry.get(name) for name in ("query", "imgname", "label"))
            whole = all(isinstance(value, str) for value in (text, image, label))
            if not whole or "/" in image:
                raise DataError(f"{file}: entry {place} needs texts 'query', 'imgname' and 'label'")
            questions.append(
                Question(
                    f"{kind}_{place}",
                    folder / split / "png" / image,
                    f"{text}\n{SHORT_ANSWER}",
                    (label,),
                    {"kind": kind},
                )
            )
    return questions


def doc_vqa_row(row: dict[str, Any], image: RowImage) -> Question:
    """A row of DocVQA on the hub."""
    text = f"{row['question']}\n{SHORT_ANSWER}"
    return Question(str(row["questionId"]), image, text, tuple(row["answers"]))


def chart_qa_row(row: dict[str, Any], image: RowImage) -> Question:
    """A row of ChartQA on the hub, which has no numbers."""
    kind = row["type"].removesuffix("_test")
    text = f"{row['question']}\n{SHORT_ANSWER}"
    return Question(str(image.place), image, text, (row["answer"],), {"kind": kind})


def score_doc_vqa(questions: list[Question], predictions: list[str]) -> Scores:
    """ANLS."""
    return score_anls(predictions, [question.answers for question in questions])


def score_chart_qa(questions: list[Question], predictions: list[str]) -> Scores:
    """Relaxed accuracy, by who wrote the question."""
    return score_relaxed(
        predictions,
        [question.answers[0] for question in questions],
        [question.labels["kind"] for question in questions],
    )


DOC_VQA = Benchmark(
    name="docvqa",
    title="DocVQA, ANLS",
    splits=("val", "train"),
    layout="val_v1.0_withQT.json and documents/",
    load=doc_vqa,
    score=score_doc_vqa,
    max_tokens=32,
    each=lambda question, answer: anls(answer, question.answers),
    hub=Hub(
        "lmms-lab-encoder/DocVQA",
        {"val": "validation"},
        doc_vqa_row,
        config="DocVQA",
        same_image="docId",
    ),
)

CHART_QA = Benchmark(
    name="chartqa",
    title="ChartQA, relaxed accuracy",
    splits=("test", "val"),
    layout="test/test_human.json, test/test_augmented.json and test/png/",
    load=chart_qa,
    score=score_chart_qa,
    max_tokens=16,
    each=lambda question, answer: float(relaxed_match(answer, question.answers[0])),
    hub=Hub("lmms-lab-encoder/ChartQA", {"test": "test"}, chart_qa_row),
)

"""GQA (Hudson and Manning 2019): questions made from scene graphs, the balanced set."""

import re
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub
from eval.metrics.gqa import GqaQuestion, gqa_correct, score_gqa
from eval.metrics.scores import Scores
from eval.official import gqa_questions
from eval.prompts import SHORT_ANSWER
from eval.question import Question, RowImage

FILES = {"testdev": "testdev_balanced_questions.json", "val": "val_balanced_questions.json"}


def load(folder: Path, split: str) -> list[Question]:
    """The questions.

    Raises:
        DataError: a file that is missing or broken.
    """
    return [
        gqa_question(number, folder / "images" / f"{image}.jpg", text, question)
        for number, (question, text, image) in gqa_questions(folder / FILES[split]).items()
    ]


def row_question(row: dict[str, Any], image: RowImage) -> Question:
    """A row on the hub."""
    types = row["types"]
    # A text of ids there, as in `['05', '06']`.
    entailed = re.findall(r"\w+", str(row.get("entailed") or ""))
    question = GqaQuestion(row["answer"], types["structural"], types.get("semantic"), entailed)
    return gqa_question(str(row["id"]), image, row["question"], question)


def gqa_question(number: str, image: Path | RowImage, text: str, question: GqaQuestion) -> Question:
    """A question as it is asked."""
    labels = {"structural_type": question.structural}
    if question.semantic:
        labels["semantic_type"] = question.semantic
    text = f"{text}\n{SHORT_ANSWER}"
    return Question(number, image, text, (question.answer,), labels, question)


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """Accuracy by type, and consistency."""
    numbers = [question.id for question in questions]
    return score_gqa(
        {question.id: question.scored_as for question in questions},
        dict(zip(numbers, predictions, strict=True)),
    )


GQA = Benchmark(
    name="gqa",
    title="GQA, accuracy",
    splits=tuple(FILES),
    layout="testdev_balanced_questions.json and images/",
    load=load,
    score=score,
    max_tokens=16,
    each=lambda question, answer: float(gqa_correct(answer, question.answers[0])),
    hub=Hub(
        "lmms-lab-encoder/GQA",
        {"testdev": "testdev"},
        row_question,
        config="testdev_balanced_instructions",
        same_image="imageId",
        images="testdev_balanced_images",
    ),
)

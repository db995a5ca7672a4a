"""GQA (Hudson and Manning 2019): questions made from scene graphs, the balanced set."""

import re
from pathlib import Path
from typing import Any

from eval.hub import Hub
from eval.metrics.gqa import GqaQuestion, gqa_correct, score_gqa
from eval.metrics.scores import Scores
from eval.official import gqa_questions
from eval.prompts import SHORT_ANSWER
from eval.question import Benchmark, Question, RowImage

FILES = {"testdev": "testdev_balanced_questions.json", "val": "val_balanced_questions.json"}


def load(folder: Path, split: str) -> list[Question]:
    """The questions. What each entails stands in its labels, ids joined by spaces."""
    file = folder / FILES[split]
    return [
        Question(
            number,
            folder / "images" / f"{image}.jpg",
            f"{text}\n{SHORT_ANSWER}",
            (question.answer,),
            {
                "structural": question.structural,
                "semantic": question.semantic or "",
                "entailed": " ".join(question.entailed),
            },
        )
        for number, (question, text, image) in gqa_questions(file).items()
    ]


def row_question(row: dict[str, Any], image: RowImage) -> Question:
    """A row on the hub."""
    types = row["types"]
    labels = {"structural": types["structural"], "semantic": types.get("semantic") or ""}
    # A text of ids there, as in `['05', '06']`.
    labels["entailed"] = " ".join(re.findall(r"\w+", str(row.get("entailed") or "")))
    text = f"{row['question']}\n{SHORT_ANSWER}"
    return Question(str(row["id"]), image, text, (row["answer"],), labels)


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """Accuracy by type, and consistency."""
    return score_gqa(
        {
            question.id: GqaQuestion(
                question.answers[0],
                question.labels["structural"],
                question.labels["semantic"] or None,
                question.labels["entailed"].split(),
            )
            for question in questions
        },
        {question.id: text for question, text in zip(questions, predictions, strict=True)},
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
        "lmms-lab/GQA",
        {"testdev": "testdev"},
        row_question,
        config="testdev_balanced_instructions",
        same_image="imageId",
        images="testdev_balanced_images",
    ),
)

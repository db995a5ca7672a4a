"""VizWiz-VQA (Gurari et al. 2018): questions of blind people about photos they took."""

from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub
from eval.metrics.scores import Scores
from eval.metrics.vqa import score_vqa, vqa_accuracy
from eval.official import entries, given_answers
from eval.prompts import UNANSWERABLE
from eval.question import Question, RowImage
from vlm.errors import DataError

SPLITS = ("val", "train")


def load(folder: Path, split: str) -> list[Question]:
    """The questions; each photo has one, and its name is the id.

    Raises:
        DataError: a file that is missing or broken.
    """
    file = folder / f"{split}.json"
    questions = []
    for place, entry in enumerate(entries(file), start=1):
        text, image = entry.get("question"), entry.get("image")
        if not isinstance(text, str) or not isinstance(image, str) or "/" in image:
            raise DataError(f"{file}: entry {place} needs texts 'question' and 'image'")
        kind = entry.get("answer_type")
        questions.append(
            Question(
                image,
                folder / split / image,
                f"{text}\n{UNANSWERABLE}",
                tuple(given_answers(file, image, entry)),
                {"answer_type": kind} if isinstance(kind, str) else {},
            )
        )
    return questions


def row_question(row: dict[str, Any], image: RowImage) -> Question:
    """A row on the hub."""
    labels = {"answer_type": row["category"]} if row.get("category") else {}
    text = f"{row['question']}\n{UNANSWERABLE}"
    return Question(str(row["question_id"]), image, text, tuple(row["answers"]), labels)


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """VQA accuracy, by type of answer."""
    return score_vqa(
        predictions,
        [question.answers for question in questions],
        answer_types=[question.labels.get("answer_type") for question in questions],
    )


VIZWIZ = Benchmark(
    name="vizwiz",
    title="VizWiz, VQA accuracy",
    splits=SPLITS,
    layout="val.json and val/",
    load=load,
    score=score,
    max_tokens=16,
    each=lambda question, answer: vqa_accuracy(answer, question.answers),
    hub=Hub("lmms-lab-encoder/VizWiz-VQA", {"val": "val"}, row_question),
)

"""VQA v2 (Goyal et al. 2017), and the benchmarks that come in its files: OK-VQA (Marino et al.
2019)."""

from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub
from eval.metrics.scores import Scores
from eval.metrics.vqa import score_vqa, vqa_accuracy
from eval.official import by_id, entries, given_answers, require_same
from eval.prompts import SHORT_ANSWER
from eval.question import Question, RowImage
from vlm.errors import DataError

VQA_FILES = {
    "val": (
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
        "val2014/COCO_val2014_{:012d}.jpg",
    ),
    "train": (
        "v2_OpenEnded_mscoco_train2014_questions.json",
        "v2_mscoco_train2014_annotations.json",
        "train2014/COCO_train2014_{:012d}.jpg",
    ),
}

OK_VQA_FILES = {
    "val": (
        "OpenEnded_mscoco_val2014_questions.json",
        "mscoco_val2014_annotations.json",
        "val2014/COCO_val2014_{:012d}.jpg",
    ),
}


def load(files: dict[str, tuple[str, str, str]], folder: Path, split: str) -> list[Question]:
    """Questions, with all that people answered.

    Args:
        files: of each split the names of the questions, of the annotations, and of a photo.
        folder: where they are.
        split: one of `files`.

    Raises:
        DataError: files that are missing, broken, or of other questions.
    """
    questions_file, annotations_file, photo = files[split]
    asked = by_id(
        folder / questions_file, entries(folder / questions_file, "questions"), "question_id"
    )
    annotated = by_id(
        folder / annotations_file, entries(folder / annotations_file, "annotations"), "question_id"
    )
    require_same(folder / annotations_file, annotated, asked, "annotation")
    questions = []
    for number, entry in asked.items():
        text, image = entry.get("question"), entry.get("image_id")
        if not isinstance(text, str) or not isinstance(image, int):
            raise DataError(
                f"{folder / questions_file}: {number} needs a text 'question' and a number "
                "'image_id'"
            )
        annotation = annotated[number]
        labels = {
            name: label
            for name in ("answer_type", "question_type")
            if isinstance(label := annotation.get(name), str)
        }
        questions.append(
            Question(
                str(number),
                folder / photo.format(image),
                f"{text}\n{SHORT_ANSWER}",
                tuple(given_answers(folder / annotations_file, number, annotation)),
                labels,
            )
        )
    return questions


def row_question(row: dict[str, Any], image: RowImage) -> Question:
    """A row on the hub."""
    labels = {name: row[name] for name in ("answer_type", "question_type") if row.get(name)}
    answers = tuple(a["answer"] if isinstance(a, dict) else a for a in row["answers"])
    return Question(
        str(row["question_id"]), image, f"{row['question']}\n{SHORT_ANSWER}", answers, labels
    )


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """VQA accuracy of the official evaluation, by type of answer and of question."""
    return score_vqa(
        predictions,
        [question.answers for question in questions],
        [question.labels.get("question_type") for question in questions],
        [question.labels.get("answer_type") for question in questions],
    )


def benchmark(name: str, title: str, files: dict[str, tuple[str, str, str]], hub: Hub) -> Benchmark:
    """A benchmark in VQA v2's files."""
    return Benchmark(
        name=name,
        title=f"{title}, VQA accuracy",
        splits=tuple(files),
        layout="the official questions, annotations and val2014/",
        load=partial(load, files),
        score=score,
        max_tokens=16,
        each=lambda question, answer: vqa_accuracy(answer, question.answers),
        hub=hub,
    )


VQA_V2 = benchmark(
    "vqav2",
    "VQA v2",
    VQA_FILES,
    Hub("lmms-lab-encoder/VQAv2", {"val": "validation"}, row_question, same_image="image_id"),
)
OK_VQA = benchmark(
    "okvqa",
    "OK-VQA",
    OK_VQA_FILES,
    Hub("lmms-lab-encoder/OK-VQA", {"val": "val2014"}, row_question),
)

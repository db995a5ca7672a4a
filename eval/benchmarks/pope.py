"""POPE (Li et al. 2023): is there such an object on the photo? Three ways to choose what is not."""

from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub
from eval.metrics.pope import says_yes, score_pope
from eval.metrics.scores import Scores
from eval.official import entries
from eval.prompts import SHORT_ANSWER
from eval.question import Question, RowImage
from vlm.errors import DataError

KINDS = ("random", "popular", "adversarial")


def load(folder: Path, split: str) -> list[Question]:
    """The questions of all three files, which number theirs alike.

    Raises:
        DataError: a file that is missing or broken.
    """
    questions = []
    for kind in KINDS:
        file = folder / f"coco_pope_{kind}.json"
        for place, entry in enumerate(entries(file), start=1):
            text, image, label = (entry.get(name) for name in ("text", "image", "label"))
            whole = isinstance(text, str) and isinstance(image, str) and "/" not in image
            if not whole or label not in ("yes", "no"):
                raise DataError(
                    f"{file}: entry {place} needs 'text', 'image', and 'label', yes or no"
                )
            questions.append(
                Question(
                    f"{kind}_{place}",
                    folder / "val2014" / image,
                    f"{text}\n{SHORT_ANSWER}",
                    (label,),
                    {"split": kind},
                )
            )
    return questions


def row_question(row: dict[str, Any], image: RowImage) -> Question:
    """A row on the hub."""
    answer, kind = row["answer"].strip().lower(), row["category"]
    if answer not in ("yes", "no"):
        raise ValueError(f"answer {answer}")
    number = f"{kind}_{row['question_id']}"
    text = f"{row['question']}\n{SHORT_ANSWER}"
    return Question(number, image, text, (answer,), {"split": kind})


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """F1 of yes, the mean of the three, and all else of each."""
    splits: dict[str, tuple[list[str], list[bool]]] = {}
    for question, prediction in zip(questions, predictions, strict=True):
        answers, there = splits.setdefault(question.labels["split"], ([], []))
        answers.append(prediction)
        there.append(question.answers[0] == "yes")
    return score_pope(splits)


POPE = Benchmark(
    name="pope",
    title="POPE, F1 of yes",
    splits=("val",),
    layout="coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json and val2014/",
    load=load,
    score=score,
    max_tokens=16,
    each=lambda question, answer: float(says_yes(answer) == (question.answers[0] == "yes")),
    hub=Hub("lmms-lab-encoder/POPE", {"val": "test"}, row_question, same_image="image_source"),
)

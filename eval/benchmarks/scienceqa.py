"""ScienceQA-IMG (Lu et al. 2022): school questions with options, those with an image."""

from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub
from eval.metrics.scienceqa import LETTERS, ScienceQuestion, read_letter, score_scienceqa
from eval.metrics.scores import Scores
from eval.official import science_problems
from eval.prompts import with_options
from eval.question import Question, RowImage

SPLITS = ("test", "val", "train")


def load(folder: Path, split: str) -> list[Question]:
    """The problems of a split that have an image.

    Raises:
        DataError: a file that is missing or broken.
    """
    return [
        science_question(number, folder / split / number / "image.png", problem, entry)
        for number, (problem, entry) in science_problems(folder / "problems.json", split).items()
        if problem.has_image
    ]


def row_question(row: dict[str, Any], image: RowImage) -> Question:
    """A row on the hub, which has no numbers."""
    problem = ScienceQuestion(
        len(row["choices"]),
        row["answer"],
        row["subject"],
        int(row["grade"].removeprefix("grade")),
        has_text=bool(row["hint"]),
        has_image=True,
    )
    return science_question(str(image.place), image, problem, row)


def science_question(
    number: str, image: Path | RowImage, problem: ScienceQuestion, entry: dict[str, Any]
) -> Question:
    """A problem as it is asked, its hint in front."""
    hint = f"Context: {entry['hint']}\n" if problem.has_text else ""
    options = dict(zip(LETTERS, entry["choices"], strict=False))
    return Question(
        number,
        image,
        with_options(f"{hint}{entry['question']}", options),
        (LETTERS[problem.answer],),
        {"subject": problem.subject, "grade": "1-6" if problem.grade <= 6 else "7-12"},
        problem,
    )


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """Accuracy by subject, context and grade."""
    return score_scienceqa([question.scored_as for question in questions], predictions)


SCIENCE_QA = Benchmark(
    name="scienceqa",
    title="ScienceQA-IMG, accuracy",
    splits=SPLITS,
    layout="problems.json and the images, test/ID/image.png",
    load=load,
    score=score,
    max_tokens=16,
    each=lambda question, answer: float(read_letter(answer.strip()) == question.answers[0]),
    hub=Hub(
        "lmms-lab-encoder/ScienceQA",
        {"test": "test", "val": "validation", "train": "train"},
        row_question,
        config="ScienceQA-IMG",
    ),
)

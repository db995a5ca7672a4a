"""ScienceQA-IMG (Lu et al. 2022): school questions with options, those with an image."""

from pathlib import Path
from typing import Any

from eval.hub import Hub
from eval.metrics.scienceqa import LETTERS, ScienceQuestion, read_letter, score_scienceqa
from eval.metrics.scores import Scores
from eval.official import science_problems
from eval.prompts import with_options
from eval.question import Benchmark, Question, RowImage

SPLITS = ("test", "val", "train")


def load(folder: Path, split: str) -> list[Question]:
    """The problems of a split that have an image, their hint in front."""
    questions = []
    for number, (problem, entry) in science_problems(folder / "problems.json", split).items():
        if not problem.has_image:
            continue
        hint = f"Context: {entry['hint']}\n" if problem.has_text else ""
        options = dict(zip(LETTERS, entry["choices"], strict=False))
        questions.append(
            Question(
                number,
                folder / split / number / "image.png",
                with_options(f"{hint}{entry['question']}", options),
                (LETTERS[problem.answer],),
                {
                    "subject": problem.subject,
                    "grade": str(problem.grade),
                    "text": "yes" * problem.has_text,
                    "options": str(problem.options),
                },
            )
        )
    return questions


def row_question(row: dict[str, Any], image: RowImage) -> Question:
    """A row on the hub, which has no numbers."""
    options = dict(zip(LETTERS, row["choices"], strict=False))
    hint = f"Context: {row['hint']}\n" if row["hint"] else ""
    return Question(
        str(image.place),
        image,
        with_options(f"{hint}{row['question']}", options),
        (LETTERS[row["answer"]],),
        {
            "subject": row["subject"],
            "grade": row["grade"].removeprefix("grade"),
            "text": "yes" * bool(row["hint"]),
            "options": str(len(options)),
        },
    )


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """Accuracy by subject, context and grade."""
    problems = [
        ScienceQuestion(
            int(question.labels["options"]),
            LETTERS.index(question.answers[0]),
            question.labels["subject"],
            int(question.labels["grade"]),
            has_text=bool(question.labels["text"]),
            has_image=True,
        )
        for question in questions
    ]
    return score_scienceqa(problems, predictions)


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
        "lmms-lab/ScienceQA",
        {"test": "test", "val": "validation", "train": "train"},
        row_question,
        config="ScienceQA-IMG",
    ),
)

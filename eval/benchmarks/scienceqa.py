"""ScienceQA-IMG (Lu et al. 2022): school questions with options, those with an image, and an answer
read as LLaVA's evaluation reads it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark, breakdowns
from eval.hub import Hub, Row
from eval.metrics.scores import Scores, group_means, mean_scores
from eval.question import Question, texts_in
from vlm.data.options import with_options
from vlm.data.records import read_named
from vlm.errors import DataError

LETTERS = "ABCDE"

SENTENCE = re.compile(r"The answer is \(?([A-Z])\)?.")
"""The last dot is any character: so it is in the official script."""


def rows(folder: Path, split: str) -> Iterator[Row]:
    return (row for row in problems(folder / "problems.json", split) if row.image is not None)


def problems(file: Path, split: str | None) -> Iterator[Row]:
    """The problems of a split; None is all."""
    found = read_named(file)
    there = {n: one for n, one in found.items() if split is None or one.get("split") == split}
    if not there:
        raise DataError(f"{file}: no problem of split '{split}'")
    for number, one in there.items():
        photo = (file.parent, f"{one.get('split')}/{number}/image.png")
        image = photo if one.get("image") else None
        yield Row(f"{file}: problem {number}", {**one, "id": number}, image)


def question(row: dict[str, Any], image: Any) -> Question:
    """A problem as it is asked, its hint in front; scored with its contexts, of which one with a
    hint and an image has two."""
    options, answer = texts_in(row, "choices"), int(row["answer"])
    if not 0 <= answer < len(options) <= len(LETTERS):
        raise ValueError(
            f"'choices' (at most {len(LETTERS)}), and 'answer', the number of one, are needed"
        )
    hint = row.get("hint")
    grade = int(str(row["grade"]).removeprefix("grade"))
    contexts = ["text"] * bool(hint) + ["image"] * (image is not None)
    return Question(
        row["id"],
        image,
        with_options(row["question"], dict(zip(LETTERS, options, strict=False)), hint),
        (LETTERS[answer],),
        {"subject": row["subject"], "grade": "1-6" if grade <= 6 else "7-12"},
        contexts or ["none"],
    )


def read_letter(text: str) -> str | None:
    """The option that an answer names: the letter itself; else the one in front, of `B. a fish`;
    else the one of `The answer is B.` or `The answer is (B).`, whatever the last character, if it
    says so exactly once. None if there is none."""
    if len(text) == 1 and text in LETTERS:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = SENTENCE.findall(text)
    return found[0] if len(found) == 1 else None


def is_right(question: Question, answer: str) -> float:
    return float(read_letter(answer.strip()) == question.answers[0])


def score(questions: Sequence[Question], answers: Sequence[str]) -> Scores:
    """Accuracy overall, by subject, by grade and by context."""
    each = [is_right(*pair) for pair in zip(questions, answers, strict=True)]
    contexts: dict[str, float] = {}
    for name in ("text", "image", "none"):
        contexts |= group_means(each, [name if name in q.scored_as else None for q in questions])
    groups = {**breakdowns(questions, each), "per_context": contexts}
    return mean_scores("ScienceQA accuracy", each, groups)


SCIENCE_QA = Benchmark(
    name="scienceqa",
    title="ScienceQA-IMG, accuracy",
    splits=("test", "val", "train"),
    layout="problems.json and the images, test/ID/image.png",
    rows=rows,
    question=question,
    each=is_right,
    score_all=score,
    hub=Hub(
        "lmms-lab-encoder/ScienceQA",
        {"test": "test", "val": "validation", "train": "train"},
        config="ScienceQA-IMG",
    ),
)

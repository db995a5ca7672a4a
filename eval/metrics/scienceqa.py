"""ScienceQA (Lu et al. 2022): the letter of an option, read as LLaVA's evaluation reads it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eval.metrics.scores import Scores, mean_scores

LETTERS = "ABCDE"

_SENTENCE = re.compile(r"The answer is \(?([A-Z])\)?\.")


@dataclass(frozen=True)
class ScienceQuestion:
    """A question with options.

    Attributes:
        options: number of them, at most five.
        answer: the right one, from 0.
        subject: `natural science`, `language science` or `social science`.
        grade: 1 to 12.
        has_text: a hint stands in front of it.
        has_image: it is about an image.
    """

    options: int
    answer: int
    subject: str
    grade: int
    has_text: bool
    has_image: bool


def read_letter(text: str) -> str | None:
    """The option that an answer names: the letter itself; else the one in front, of `B. a fish`;
    else the one of `The answer is B.` or `The answer is (B).`, if it says so exactly once. None if
    there is none."""
    if len(text) == 1 and text in LETTERS:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = _SENTENCE.findall(text)
    return found[0] if len(found) == 1 else None


def score_scienceqa(questions: Sequence[ScienceQuestion], predictions: Sequence[str]) -> Scores:
    """Accuracy overall, by subject, by context and by grade. What cannot be read, or names an
    option that is not there, is wrong.

    Args:
        questions: one at least.
        predictions: the answer to each.
    """
    right = []
    for question, prediction in zip(questions, predictions, strict=True):
        letter = read_letter(prediction.strip())
        there = letter in LETTERS[: question.options] if letter else False
        right.append(float(there and LETTERS.index(letter) == question.answer))
    contexts = {
        "per_context_text": [q.has_text for q in questions],
        "per_context_image": [q.has_image for q in questions],
        "per_context_none": [not q.has_text and not q.has_image for q in questions],
    }
    scores = mean_scores(
        "ScienceQA accuracy",
        right,
        {
            "per_subject": [question.subject for question in questions],
            "per_grade": ["1-6" if question.grade <= 6 else "7-12" for question in questions],
            # A question with a hint and an image is in two of the groups.
            **{
                name: [name.rpartition("_")[2] if holds else None for holds in column]
                for name, column in contexts.items()
            },
        },
    )
    merged = {k: v for name in contexts for k, v in scores.groups.pop(name).items()}
    scores.groups["per_context"] = merged
    return scores

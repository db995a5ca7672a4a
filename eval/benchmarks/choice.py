"""Questions with lettered options, as several benchmarks have them."""

from collections.abc import Sequence
from typing import Any

from eval.metrics.choice import ChoiceQuestion, read_choice, score_choice
from eval.metrics.scores import Scores
from eval.prompts import with_options
from eval.question import Question

LETTERS = "ABCDEFGHIJ"


def choice(
    number: Any,
    image: Any,
    text: str,
    options: Sequence[str],
    answer: str,
    category: str | None = None,
    group: str | None = None,
) -> Question:
    """A question with options.

    Raises:
        ValueError: no such option, or one that is no text.
    """
    lettered = dict(zip(LETTERS, options, strict=False))
    if answer not in lettered or not all(isinstance(option, str) for option in options):
        raise ValueError("options that are texts, and the letter of one of them, are needed")
    labels = {"category": category} if category else {}
    scored_as = ChoiceQuestion(lettered, answer, category or None, group)
    return Question(str(number), image, with_options(text, lettered), (answer,), labels, scored_as)


def is_right(question: Question, answer: str) -> float:
    """1 if an answer means the right option, else 0."""
    return float(read_choice(answer, question.scored_as.options) == question.answers[0])


def score(questions: Sequence[Question], answers: Sequence[str]) -> Scores:
    """Accuracy by category, circular where questions have a group."""
    return score_choice([question.scored_as for question in questions], answers)

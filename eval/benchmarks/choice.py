"""Questions with lettered options, as several benchmarks have them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from string import ascii_uppercase as LETTERS
from typing import Any, NamedTuple

from eval.metrics.choice import read_choice
from eval.metrics.scores import Scores, group_means, mean_scores
from eval.question import Question
from vlm.data.options import with_options


class Options(NamedTuple):
    """A question's options; `group` is the same for all rotations of them, None where they are
    asked once."""

    by_letter: Mapping[str, str]
    group: str | None = None


def choice(
    number: Any,
    image: Any,
    text: str,
    options: Sequence[str] | Mapping[str, str],
    answer: str,
    category: str | int | None = None,
    group: str | None = None,
) -> Question:
    """A question with its options, in a row or by letter; `answer` is the letter of one."""
    if isinstance(options, list | tuple):
        if len(options) > len(LETTERS):
            raise ValueError(f"{len(options)} options, more than there are letters")
        options = dict(zip(LETTERS, options, strict=False))
    texts = options.values() if isinstance(options, Mapping) else [None]
    if not all(isinstance(option, str) for option in texts) or answer not in options:
        raise ValueError("options that are texts, and the letter of one of them, are needed")
    if not isinstance(category, str | int | None):
        raise ValueError("a category that is no text")
    labels = {} if category in (None, "") else {"category": str(category)}
    scored_as = Options(options, group)
    return Question(str(number), image, with_options(text, options), (answer,), labels, scored_as)


def is_right(question: Question, answer: str) -> float:
    return float(read_choice(answer, question.scored_as.by_letter) == question.answers[0])


def score(questions: Sequence[Question], answers: Sequence[str]) -> Scores:
    """Accuracy, by category too. Of rotations of one question every one must be right, and they
    count as one question (MMBench's CircularEval, Liu et al. 2023)."""
    right: dict[int | str, list[float]] = defaultdict(list)
    categories: dict[int | str, str | None] = {}
    for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        group = question.scored_as.group
        key = place if group is None else group
        right[key].append(is_right(question, answer))
        categories.setdefault(key, question.labels.get("category"))
    circular = any(question.scored_as.group is not None for question in questions)
    metric = "multiple choice accuracy" + ", circular" * circular
    each = [min(rotations) for rotations in right.values()]
    groups = {"per_category": group_means(each, list(categories.values()))}
    return mean_scores(metric, each, groups)

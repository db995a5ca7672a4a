"""Multiple choice (MMBench, SEED-Bench, AI2D): which option an answer means, and circular
evaluation."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.metrics.scores import Scores, mean_scores


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with options by letter; `group` is the same for all rotations of its options, None
    where it is asked once."""

    options: Mapping[str, str]
    answer: str
    category: str | None = None
    group: str | None = None


def read_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that an answer means: the letter that it begins with, alone or in
    front of a mark (`B`, `(B)`, `B.`, `B: a fish`); else the only option whose text is in it,
    whatever the case. None if there is no such."""
    text = text.strip()
    found = re.match(r"\(?([A-Z])(?:[).:,]|$)", text)
    if found and found[1] in options:
        return found[1]
    lower = text.lower()
    named = [
        letter
        for letter, option in options.items()
        if re.search(rf"(?<!\w){re.escape(option.strip().lower())}(?!\w)", lower)
    ]
    return named[0] if len(named) == 1 else None


def score_choice(questions: Sequence[ChoiceQuestion], predictions: Sequence[str]) -> Scores:
    """Accuracy, by category too. Of rotations of one question every one must be right, and they
    count as one question (MMBench's CircularEval, Liu et al. 2023)."""
    groups: dict[tuple[bool, str], list[tuple[ChoiceQuestion, bool]]] = defaultdict(list)
    for place, (question, prediction) in enumerate(zip(questions, predictions, strict=True)):
        alone = question.group is None
        right = read_choice(prediction, question.options) == question.answer
        groups[alone, str(place) if alone else question.group].append((question, right))
    circular = any(question.group is not None for question in questions)
    each = [float(all(right for _, right in members)) for members in groups.values()]
    categories = [members[0][0].category for members in groups.values()]
    metric = "multiple choice accuracy" + ", circular" * circular
    return mean_scores(metric, each, {"per_category": categories})

"""Any of several answers, but for case, articles and the full stop: for questions of one's own."""

import re
from collections.abc import Sequence

from eval.metrics.scores import Scores, mean_scores


def normalise(answer: str) -> str:
    """An answer as it is compared: `" A dog."` -> `dog`."""
    plain = " ".join(answer.lower().split()).rstrip(". ")
    return re.sub(r"^((a|an|the) )+", "", plain)


def any_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether a prediction is one of the answers."""
    return normalise(prediction) in map(normalise, answers)


def score_any(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    kinds: Sequence[str | None] | None = None,
) -> Scores:
    """The share of questions answered right.

    Args:
        predictions: for each question, one at least.
        answers: of each question, all that are right.
        kinds: of the questions, for the breakdown.
    """
    each = [float(any_match(*pair)) for pair in zip(predictions, answers, strict=True)]
    metric = "any answer, but for case, articles and full stop"
    return mean_scores(metric, each, {"per_kind": kinds} if kinds else None)

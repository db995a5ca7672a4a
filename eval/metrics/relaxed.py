"""Relaxed accuracy (Methani et al. 2020), ChartQA's metric: numbers may be 5% off."""

from collections.abc import Sequence

from eval.metrics.scores import Scores, mean_scores

TOLERANCE = 0.05


def number(text: str) -> float | None:
    """The number that a text is, `12%` being 0.12; None if it is none."""
    text = text.strip()
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None


def relaxed_match(prediction: str, answer: str) -> bool:
    """Whether a prediction is right: where both are numbers and the answer is not 0, if it is not
    more than 5% off; else if they are the same but for case and the spaces around."""
    said, right = number(prediction), number(answer)
    if said is not None and right:
        return abs(said - right) / abs(right) <= TOLERANCE
    return prediction.strip().lower() == answer.strip().lower()


def score_relaxed(
    predictions: Sequence[str], answers: Sequence[str], kinds: Sequence[str | None] | None = None
) -> Scores:
    """The share of questions answered right.

    Args:
        predictions: for each question, one at least.
        answers: the right one to each.
        kinds: of the questions (`human`, `augmented`), for the breakdown.
    """
    each = [float(relaxed_match(*pair)) for pair in zip(predictions, answers, strict=True)]
    return mean_scores("relaxed accuracy", each, {"per_kind": kinds} if kinds else None)

"""Exact match (DAQUAR, easy-VQA): the answer as it is, but for its case."""

from collections.abc import Sequence

from eval.metrics.scores import Scores, mean_scores


def as_set(text: str) -> frozenset[str]:
    """An answer as it is compared: in lower case, the parts between commas in any order."""
    return frozenset(part for each in text.lower().split(",") if (part := each.strip()))


def exact_match(prediction: str, answer: str) -> bool:
    """Whether both are the same set of answers.

    >>> exact_match("Table, chair", "chair, table")
    True
    """
    return as_set(prediction) == as_set(answer)


def score_exact(
    predictions: Sequence[str], answers: Sequence[str], kinds: Sequence[str | None] | None = None
) -> Scores:
    """The share of questions answered right.

    Args:
        predictions: for each question, one at least.
        answers: the right one to each; several are joined by ", ".
        kinds: of the questions, for the breakdown.
    """
    each = [float(exact_match(*pair)) for pair in zip(predictions, answers, strict=True)]
    return mean_scores("exact match", each, {"per_kind": kinds} if kinds else None)

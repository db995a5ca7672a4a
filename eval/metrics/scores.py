"""What a scorer gives: one figure, its interval, and the same by kind of question."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from eval.metrics.bootstrap import interval


@dataclass(frozen=True)
class Scores:
    """The score of a model's answers.

    Attributes:
        metric: its name, with its variant.
        overall: 0 to 100.
        interval: of `overall`, 95% (see bootstrap.py).
        each: of each question, 0 to 1, in their order.
        groups: by name of a breakdown (`per_answer_type`), the score of each group.
        more: further figures, by name.
    """

    metric: str
    overall: float
    interval: tuple[float, float]
    each: list[float]
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    more: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Figures rounded to two places."""
        return {
            "metric": self.metric,
            "overall": round(self.overall, 2),
            "interval_95": [round(bound, 2) for bound in self.interval],
            "questions": len(self.each),
            **{name: round(value, 2) for name, value in self.more.items()},
            **{
                name: {group: round(value, 2) for group, value in groups.items()}
                for name, groups in self.groups.items()
            },
        }


def mean_scores(
    metric: str,
    each: Sequence[float],
    groups: Mapping[str, Sequence[str | None]] | None = None,
    more: Mapping[str, float] | None = None,
) -> Scores:
    """Scores whose overall figure is the mean over the questions.

    Args:
        metric: its name, with its variant.
        each: of each of n questions, 0 to 1; n is at least 1.
        groups: by name of a breakdown, the group of each question; None is in none.
        more: further figures, 0 to 100.
    """
    low, high = interval(each)
    return Scores(
        metric,
        100 * fmean(each),
        (100 * low, 100 * high),
        list(each),
        {name: group_means(each, labels) for name, labels in (groups or {}).items()},
        dict(more or {}),
    )


def group_means(each: Sequence[float], labels: Sequence[str | None]) -> dict[str, float]:
    """The mean of each group in percent, in alphabetical order."""
    members: dict[str, list[float]] = defaultdict(list)
    for score, label in zip(each, labels, strict=True):
        if label is not None:
            members[label].append(score)
    return {label: 100 * fmean(members[label]) for label in sorted(members)}

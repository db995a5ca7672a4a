"""What a scorer gives: one figure, the same by kind of question, and how far it could be off, had
the benchmark asked other questions."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """The score of a model's answers.

    Attributes:
        overall: 0 to 100; None where it is undefined, and then `note` says why.
        interval: of `overall`, 95%, see `interval`.
        each: of each question, 0 to 1.
        groups: by name of a breakdown (`per_answer_type`), the score of each group.
    """

    metric: str
    overall: float | None
    interval: tuple[float, float] | None
    each: list[float]
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    more: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Figures rounded to two places."""
        return {
            "metric": self.metric,
            "overall": None if self.overall is None else round(self.overall, 2),
            "interval_95": self.interval and [round(bound, 2) for bound in self.interval],
            **({"note": self.note} if self.note else {}),
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
    groups: Mapping[str, dict[str, float]],
    more: Mapping[str, float] | None = None,
) -> Scores:
    """Scores whose overall figure is the mean over the questions, one at least, of 0 to 1."""
    low, high = interval(each)
    return Scores(
        metric,
        100 * fmean(each),
        (100 * low, 100 * high),
        list(each),
        dict(groups),
        dict(more or {}),
    )


def group_means(each: Sequence[float], labels: Sequence[str | None]) -> dict[str, float]:
    """The mean of each group in percent, in alphabetical order; a question without is in none."""
    members: dict[str, list[float]] = defaultdict(list)
    for score, label in zip(each, labels, strict=True):
        if label is not None:
            members[label].append(score)
    return {label: 100 * fmean(members[label]) for label in sorted(members)}


def interval(
    values: ArrayLike, statistic: Callable[[Floats], Floats] | None = None
) -> tuple[float, float]:
    """The 95% interval of a score, by the percentile bootstrap (Efron and Tibshirani 1993, chapter
    13) over 1,000 resamples of the questions.

    Args:
        values: what each of n questions contributes (n,) or (n, ...), taken as (n, K).
        statistic: the scores (R,) of R resamples, from the sums of what their questions
            contribute (R, K); None is the mean of a single one.
    """
    table = np.asarray(values, dtype=np.float64)
    table = table.reshape(len(table), -1)
    generator = np.random.default_rng(0)
    sums = np.stack(
        [
            # How often each question is drawn, which is all that the sums need.
            np.bincount(generator.integers(len(table), size=len(table)), minlength=len(table))
            @ table
            for _ in range(RESAMPLES)
        ]
    )
    scores = sums[:, 0] / len(table) if statistic is None else statistic(sums)
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)

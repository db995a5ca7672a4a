"""Intervals: how far a score could be off, had the benchmark asked other questions."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Sums over the questions (R, K), one row for each resample -> a score for each (R,)."""


def interval(
    values: ArrayLike, statistic: Statistic | None = None, seed: int = 0
) -> tuple[float, float]:
    """The 95% interval of a score, by the percentile bootstrap (Efron and Tibshirani 1993, chapter
    13) over 1,000 resamples of the questions.

    Args:
        values: what each of n questions contributes (n,) or (n, K).
        statistic: the score, from the sums of the K contributions over the questions; None is the
            mean of a single one.
        seed: of the resampling.
    """
    table = np.asarray(values, dtype=np.float64)
    table = table.reshape(len(table), -1)
    generator = np.random.default_rng(seed)
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

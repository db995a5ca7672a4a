"""Bootstrap intervals: of what is certain, of a mean, of a figure that is no mean."""

import numpy as np
import pytest

from eval.metrics.scores import interval


def test_questions_that_are_all_alike_leave_no_doubt() -> None:
    assert interval([0.4] * 50) == (pytest.approx(0.4), pytest.approx(0.4))


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    right = np.arange(2000) % 4 == 0
    low, high = interval(right)
    error = (0.25 * 0.75 / 2000) ** 0.5
    assert low == pytest.approx(0.25 - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(0.25 + 1.96 * error, abs=0.2 * error)


def test_a_figure_may_be_any_function_of_sums() -> None:
    # Twice as many in one column as in the other, whatever is drawn.
    values = np.array([[2.0, 1.0], [4.0, 2.0], [6.0, 3.0]])
    low, high = interval(values, lambda sums: sums[:, 0] / sums[:, 1])
    assert (low, high) == (pytest.approx(2), pytest.approx(2))


def test_the_same_questions_are_drawn_again() -> None:
    each = np.linspace(0, 1, 30)
    assert interval(each) == interval(each)

"""Retrieval and zero-shot accuracy against sorting, by hand, and where all is alike."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vlm.errors import DataError
from vlm.retrieval import ranks, retrieval, zero_shot


@st.composite
def queries(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Similarities with ties, and which candidates are right, one at least for each query."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 7)))
    similarity = draw(arrays(np.float32, shape, elements=st.integers(-3, 3).map(float)))
    right = draw(arrays(bool, shape))
    for own in right:
        own[draw(st.integers(0, shape[1] - 1))] = True
    return similarity, right


@given(queries())
def test_ranks_are_those_of_a_plain_loop(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    similarity, right = drawn
    for found, row, own in zip(ranks(*drawn), similarity, right, strict=True):
        # Of the wrong ones alone, as any right one is as good; wrong before right when alike.
        order = sorted(range(len(row)), key=lambda i: (-row[i], own[i]))
        best = next(i for i in order if own[i])
        assert found == 1 + sum(not own[i] for i in order[: order.index(best)])


@given(queries(), st.randoms(use_true_random=False))
def test_ranks_do_not_depend_on_order_or_scale(
    drawn: tuple[np.ndarray, np.ndarray], random: Random
) -> None:
    similarity, right = drawn
    order = list(range(similarity.shape[1]))
    random.shuffle(order)
    moved = ranks(100 * similarity[:, order] - 10, right[:, order])
    assert moved.tolist() == ranks(similarity, right).tolist()


def test_a_photo_is_as_good_as_the_best_of_its_texts() -> None:
    owners = np.array([0, 0, 1, 1, 2])
    similarity = np.array(
        [
            [0.9, 0.1, 0.8, 0.7, 0.6],  # its first text is first, its second last
            [0.5, 0.6, 0.4, 0.3, 0.2],  # third
            [0.9, 0.8, 0.7, 0.6, 0.5],  # fifth
        ]
    )
    right = owners == np.arange(3)[:, None]
    assert ranks(similarity, right).tolist() == [1, 3, 5]
    # Photos of each text: 0.9 beside 0.9 is a tie, which counts against it.
    assert ranks(similarity.T, right.T).tolist() == [2, 3, 3, 3, 2]
    third = pytest.approx(100 / 3)
    assert retrieval(similarity, right) == {
        "photo_to_text_r1": third,
        "photo_to_text_r5": 100,
        "photo_to_text_r10": 100,
        "text_to_photo_r1": 0,
        "text_to_photo_r5": 100,
        "text_to_photo_r10": 100,
    }


@pytest.mark.parametrize("value", [0.3, np.nan, -np.inf])
def test_who_tells_nothing_apart_finds_nothing(value: float) -> None:
    right = np.repeat(np.eye(20, dtype=bool), 5, axis=1)
    assert set(retrieval(np.full((20, 100), value), right).values()) == {0}


def test_similarities_that_are_no_numbers_find_nothing() -> None:
    similarity = np.array([[np.nan, 0.1, 0.2], [0.9, np.nan, 0.2]])
    assert ranks(similarity, np.eye(2, 3, dtype=bool)).tolist() == [3, 3]
    assert ranks(similarity, np.eye(2, 3, k=2, dtype=bool) | [[False], [True]]).tolist() == [2, 1]


def test_zero_shot_by_hand() -> None:
    similarity = np.array([[0.1, 0.5, 0.4], [0.9, 0.5, 0.1], [0.2, 0.3, 0.4]])
    labels = np.array([2, 0, 0])
    single = np.eye(3, dtype=bool)[labels]
    third = 100 / 3
    assert zero_shot(similarity, single, at=(1, 2, 3)) == pytest.approx(
        {"top1": third, "top2": 2 * third, "top3": 100}
    )
    # A second class is on the first photo.
    single[0, 1] = True
    assert zero_shot(similarity, single) == pytest.approx({"top1": 2 * third, "top5": 100})


def test_queries_without_an_answer_are_refused() -> None:
    with pytest.raises(DataError) as raised:
        ranks(np.zeros((3, 4)), np.eye(3, 4, k=2, dtype=bool))
    assert str(raised.value) == (
        "1 of 3 queries have no right candidate among 4, so none could be found: leave them out"
    )

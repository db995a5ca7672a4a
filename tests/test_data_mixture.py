"""Mixtures: how often and in which order each sample comes."""

from collections import Counter
from math import ceil, floor

from hypothesis import given
from hypothesis import strategies as st

from train.mixture import epoch_order

weights = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1.0, 1.5, 2.0, 2.7]) | st.floats(0.01, 4)
sources = st.lists(st.tuples(st.integers(0, 12), weights), min_size=1, max_size=4)
numbers = st.integers(0, 2**32)


@given(sources=sources, seed=numbers, epoch=st.integers(0, 50))
def test_each_sample_comes_as_often_as_its_weight_says(
    sources: list[tuple[int, float]], seed: int, epoch: int
) -> None:
    sizes, shares = zip(*sources, strict=True)
    counts = Counter(epoch_order(sizes, shares, seed, epoch))
    first = 0
    for size, weight in sources:
        own = [counts.pop(place, 0) for place in range(first, first + size)]
        assert all(floor(weight) <= count <= ceil(weight) for count in own)
        assert abs(sum(own) - weight * size) <= 1
        first += size
    assert not counts


@given(sources=sources, seed=numbers, epochs=st.integers(1, 30))
def test_over_epochs_all_samples_of_a_source_come_alike(
    sources: list[tuple[int, float]], seed: int, epochs: int
) -> None:
    sizes, shares = zip(*sources, strict=True)
    counts = Counter(i for epoch in range(epochs) for i in epoch_order(sizes, shares, seed, epoch))
    first = 0
    for size, weight in sources:
        own = [counts[place] for place in range(first, first + size)]
        if own:
            assert max(own) - min(own) <= 1
            assert abs(sum(own) - epochs * weight * size) <= 1
        first += size


def test_an_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {
        (seed, epoch): epoch_order([20, 10], [1, 2], seed, epoch)
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(map(tuple, orders.values()))) == 4
    for (seed, epoch), order in orders.items():
        assert epoch_order([20, 10], [1, 2], seed, epoch) == order


def test_sources_are_mixed() -> None:
    order = epoch_order([500, 500], [1, 1], 0, 0)
    assert 200 < sum(place < 500 for place in order[:500]) < 300


def test_a_fraction_takes_others_in_each_epoch() -> None:
    taken = [epoch_order([8], [0.25], 3, epoch) for epoch in range(4)]
    assert [len(order) for order in taken] == [2, 2, 2, 2]
    assert sorted(place for order in taken for place in order) == list(range(8))

"""The order of an epoch: how often each sample comes, and which samples meet in which batch, on how
many processes whatever."""

from collections import Counter
from math import ceil, floor

from hypothesis import given
from hypothesis import strategies as st

from train.order import epoch_batches, epoch_order, epoch_size

weights = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1.0, 1.5, 2.0, 2.7]) | st.floats(0.01, 4)
sources = st.lists(st.tuples(st.integers(0, 12), weights), min_size=1, max_size=4)
numbers = st.integers(0, 2**32)


@given(sources=sources, seed=numbers, epoch=st.integers(0, 50))
def test_each_sample_comes_as_often_as_its_weight_says(
    sources: list[tuple[int, float]], seed: int, epoch: int
) -> None:
    sizes, shares = zip(*sources, strict=True)
    order = epoch_order(sizes, shares, seed, epoch)
    assert epoch_size(sizes, shares, epoch) == len(order)
    counts = Counter(order)
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


lengths = st.lists(st.integers(1, 400), max_size=60)
small = st.integers(1, 4)


@given(lengths=lengths, batch_size=small, world=small, accumulate=small, seed=st.integers())
def test_every_sample_is_seen_once_over_all_processes(
    lengths: list[int], batch_size: int, world: int, accumulate: int, seed: int
) -> None:
    def batches(rank: int) -> list[list[int]]:
        return epoch_batches(lengths, batch_size, seed, 3, rank, world, accumulate)

    everyone = [batches(rank) for rank in range(world)]
    assert everyone == [batches(rank) for rank in range(world)]
    seen = [index for own in everyone for batch in own for index in batch]
    assert sorted(seen) == list(range(len(lengths)))
    assert all(len(batch) <= batch_size for own in everyone for batch in own)
    # Processes that have nothing left still take part in the step.
    steps = -(-len(lengths) // (batch_size * world * accumulate))
    assert {len(own) for own in everyone} == {steps * accumulate}


@given(lengths=lengths, batch_size=small, world=small, accumulate=small)
def test_processes_see_together_what_one_that_accumulates_sees(
    lengths: list[int], batch_size: int, world: int, accumulate: int
) -> None:
    many = [
        epoch_batches(lengths, batch_size, 0, 0, rank, world, accumulate) for rank in range(world)
    ]
    one = epoch_batches(lengths, batch_size, 0, 0, accumulate=world * accumulate)
    parts = world * accumulate
    for step in range(len(one) // parts):
        own = slice(step * accumulate, (step + 1) * accumulate)
        together = sorted(i for batches in many for batch in batches[own] for i in batch)
        assert together == sorted(i for b in one[step * parts : (step + 1) * parts] for i in b)


def test_batches_hold_samples_of_like_length_and_alternate() -> None:
    lengths = [20, 300] * 64
    batches = epoch_batches(lengths, 8, 0, 0)
    kinds = [{lengths[index] for index in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    assert kinds != sorted(kinds, key=max)
    assert kinds != sorted(kinds, key=max, reverse=True)


def test_epochs_and_seeds_shuffle_differently() -> None:
    same = [10] * 20
    orders = {str(epoch_batches(same, 4, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4

"""Which samples meet in which batch, on how many processes whatever."""

from hypothesis import given
from hypothesis import strategies as st

from train.order import epoch_batches

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

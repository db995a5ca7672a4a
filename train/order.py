"""The order of an epoch, and which samples meet in a step: seed and epoch determine both."""

import random
from collections.abc import Sequence

POOL = 16
"""Steps whose samples are sorted by length together."""


def epoch_order(sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> list[int]:
    """Indices into the sources' samples, one source after the other, as one epoch sees them.

    A sample of a source of weight 2 comes twice; of weight 0.25, a quarter of the samples come, in
    each epoch others until all have been seen. No sample comes more often than another of its
    source by more than one. `sizes` are the sources' samples; epochs count from 0.
    """
    order: list[int] = []
    first = 0
    for number, (size, places) in enumerate(zip(sizes, spans(sizes, weights, epoch), strict=True)):
        generator = random.Random(f"{seed}/{number}")
        own = list(range(first, first + size))
        generator.shuffle(own)
        order += [own[place % size] for place in places]
        first += size
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def epoch_size(sizes: Sequence[int], weights: Sequence[float], epoch: int) -> int:
    """Samples in one epoch, see `epoch_order`."""
    return sum(map(len, spans(sizes, weights, epoch)))


def spans(sizes: Sequence[int], weights: Sequence[float], epoch: int) -> list[range]:
    """Of each source, which of its samples an epoch has, counted on over all epochs."""
    return [
        range(round(epoch * weight * size), round((epoch + 1) * weight * size))
        for size, weight in zip(sizes, weights, strict=True)
    ]


def epoch_batches(
    lengths: Sequence[int],
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
) -> list[list[int]]:
    """The samples, of `lengths` in the epoch's order, of each batch of one process, `accumulate`
    batches for each step.

    Samples of like length meet in one step, so that little of a batch is padding, and all lengths
    alternate. `world` processes that accumulate once see the same samples together as one that
    accumulates `world` times. The last step has what is left; where that does not go round, a batch
    is empty.
    """
    size = batch_size * world * accumulate
    whole = len(lengths) - len(lengths) % size
    steps = []
    for start in range(0, whole, POOL * size):
        # Coarse, or photos with the same one-word name would fill a batch of their own.
        pool = sorted(
            range(start, min(start + POOL * size, whole)), key=lambda index: lengths[index] // 64
        )
        steps += [pool[first : first + size] for first in range(0, len(pool), size)]
    random.Random(f"{seed}/{epoch}").shuffle(steps)
    if whole < len(lengths):
        steps.append(list(range(whole, len(lengths))))
    parts = world * accumulate
    return [step[part::parts] for step in steps for part in range(rank, parts, world)]

"""Which samples meet in which batch: a shuffle that seed and epoch determine, like lengths
together, every sample on one rank only."""

import random

POOL = 16
"""Steps whose samples are sorted by length together."""


def epoch_batches(
    lengths: list[int],
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
) -> list[list[int]]:
    """The samples of each batch of one process, `accumulate` batches for each step.

    Samples of like length meet in one step, so that little of a batch is padding, and all lengths
    alternate. `world` processes that accumulate once see the same samples together as one that
    accumulates `world` times. The last step has what is left; where that does not go round, a batch
    is empty.

    Args:
        lengths: of the samples, already in the epoch's order.
        batch_size: samples in a batch.
        seed: with the epoch, determines the order of the steps.
        epoch: counted from 0.
        rank: of this process.
        world: number of processes.
        accumulate: batches of each process for one step.
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

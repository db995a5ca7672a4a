"""Sources mixed by weight, in a shuffle that the seed determines."""

import random
from collections.abc import Sequence


def epoch_order(sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> list[int]:
    """Indices into the sources' samples, one source after the other, as one epoch sees them.

    A sample of a source of weight 2 comes twice; of weight 0.25, a quarter of the samples come, in
    each epoch others until all have been seen. No sample comes more often than another of its
    source by more than one.

    Args:
        sizes: samples of each source.
        weights: of each source.
        seed: determines the order.
        epoch: counted from 0.
    """
    order: list[int] = []
    first = 0
    for number, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        generator = random.Random(f"{seed}/{number}")
        own = list(range(first, first + size))
        generator.shuffle(own)
        begin, end = round(epoch * weight * size), round((epoch + 1) * weight * size)
        order += [own[place % size] for place in range(begin, end)]
        first += size
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order

"""Retrieval and zero-shot classification: similarities of photos and texts -> R@K, top-k accuracy.

Ties count against the model: a wrong candidate as similar as the right one stands in front of it.
An encoder that gives everything the same embedding, or numbers that are none, then finds nothing,
where any other order by place would have it find what stands first."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlm.errors import DataError

Bools = NDArray[np.bool_]


def ranks(similarity: NDArray[np.floating], right: Bools) -> NDArray[np.int64]:
    """At which place, from 1, each query finds the best of its right candidates.

    Args:
        similarity: (Q, C) of queries and candidates.
        right: (Q, C), which candidates are right.

    Returns:
        (Q,). Other right candidates do not count, whatever their similarity.

    Raises:
        DataError: a query has no right candidate.
    """
    without = int((~right.any(axis=1)).sum())
    if without:
        raise DataError(
            f"{without} of {len(right)} queries have no right candidate among {right.shape[1]}, so "
            "none could be found: leave them out"
        )
    best = similarity.max(axis=1, keepdims=True, where=right, initial=-np.inf)
    # What is not a number is below nothing, and nothing below it.
    return (~(similarity < best) & ~right).sum(axis=1) + 1


def within(places: NDArray[np.int64], k: int) -> float:
    """The share of ranks up to k, in percent."""
    return 100 * float((places <= k).mean())


def retrieval(similarity: NDArray[np.floating], right: Bools) -> dict[str, float]:
    """R@1, R@5 and R@10 both ways, in percent, by the protocol of Karpathy & Fei-Fei (2015) for
    Flickr8k and COCO: a photo's rank is that of the best of its texts (five), and each text looks
    for its photo.

    Args:
        similarity: (N, M) of photos and texts.
        right: (N, M), which texts are a photo's: `owners == np.arange(N)[:, None]` for the number
            of each text's photo (M,).

    Raises:
        DataError: a photo has no text, or a text no photo.
    """
    ways = {
        "photo_to_text": ranks(similarity, right),
        "text_to_photo": ranks(similarity.T, right.T),
    }
    return {f"{way}_r{k}": within(found, k) for way, found in ways.items() for k in (1, 5, 10)}


def zero_shot(
    similarity: NDArray[np.floating], right: Bools, at: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Top-k accuracy in percent: whether one of the k classes most similar to a photo is on it.

    Args:
        similarity: (N, C) of photos and class names.
        right: (N, C), which classes are on a photo, one or several: `np.eye(C, dtype=bool)[labels]`
            for one each.

    Raises:
        DataError: a photo has no class.
    """
    found = ranks(similarity, right)
    return {f"top{k}": within(found, k) for k in at}

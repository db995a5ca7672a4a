"""What `vlm data` checks of a source and says of it, whatever the stage: some of its photos are
decoded, and what is skipped is printed."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress
from rich.text import Text
from torch.utils.data import Subset

from train.loader import read_photo
from vlm.data.photos import Photo
from vlm.data.sample import Skipped, SkipSample
from vlm.data.source import DataSource

CHECKED = 1000
"""Samples of each source that are checked if nothing else is said."""

AT_ONCE = 256
"""Samples whose photos are decoded side by side."""

T = TypeVar("T")


def some_of(samples: Sequence[T], most: int | None, seed: int) -> Subset[T]:
    """All of them, or `most` drawn ones if there are more, in their order; read when asked for."""
    places = range(len(samples))
    if most is not None and len(samples) > most:
        places = sorted(random.Random(seed).sample(places, most))
    return Subset(samples, places)


def decoded(
    samples: Subset[T], photos: Callable[[T], Iterable[Photo]]
) -> Iterator[tuple[T, SkipSample | None]]:
    """Each with why a photo of it cannot be read, if one cannot; a progress bar meanwhile."""

    def why(sample: T) -> SkipSample | None:
        return broken(photos(sample))

    bar = Progress(console=Console(stderr=True), transient=True)
    with bar, ThreadPoolExecutor() as threads:
        task = bar.add_task("checking", total=len(samples))
        for start in range(0, len(samples), AT_ONCE):
            part = [samples[at] for at in range(start, min(start + AT_ONCE, len(samples)))]
            for sample, error in zip(part, threads.map(why, part), strict=True):
                bar.advance(task)
                yield sample, error


def broken(photos: Iterable[Photo]) -> SkipSample | None:
    """Why a photo cannot be read, if one cannot."""
    try:
        for photo in photos:
            read_photo(photo)
    except SkipSample as error:
        return error
    return None


def print_partly(source: DataSource, count: int, total: int, what: str, console: Console) -> None:
    """Says how many of a source were checked, if not all."""
    if count < total:
        told = f"{source.path}: checked are {count:,} of {total:,} {what}; --all checks all"
        console.print(told, soft_wrap=True, markup=False)


def print_skipped(skipped: list[Skipped], console: Console, count: int) -> None:
    """Prints the first samples that cannot be used, and how many more there are."""
    for one in skipped[:count]:
        console.print(Text(str(one), style="red"), soft_wrap=True)
    if len(skipped) > count:
        console.print(f"and {len(skipped) - count:,} more that are skipped")

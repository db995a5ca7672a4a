"""What to ask of photos whose things are known: some that are there, and as many that are not,
chosen as POPE does (Li et al. 2023)."""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

MOST = 3
"""Things asked about that are there, of one photo; and as many that are not."""

WAYS = ("random", "popular", "adversarial")
"""To choose what is not there: at random; what most photos have; what is most often beside what is
there."""


class Known(NamedTuple):
    """A photo's name, what is there, in a fixed order, and what may be there: all but that is
    absent."""

    name: str
    there: list[str]
    maybe: Collection[str]


class Chosen(NamedTuple):
    """Up to `MOST` things that are there, and by each of `WAYS` all that are not, the first to be
    asked about first."""

    there: list[str]
    absent: dict[str, list[str]]

    def asked(self) -> Iterator[tuple[str, str, str]]:
        """What POPE asks, as many things that are not there as are: way, thing and answer."""
        for way, absent in self.absent.items():
            yield from ((way, thing, "yes") for thing in self.there)
            yield from ((way, thing, "no") for thing in absent[: len(self.there)])


def choose(photos: list[Known]) -> Iterator[Chosen]:
    """What to ask of each photo, out of what is there on any: the same for the same photos, since a
    photo's draws depend on its name alone."""
    common = Counter(thing for photo in photos for thing in photo.there)
    beside: dict[str, Counter[str]] = defaultdict(Counter)
    for _, there, _ in photos:
        for thing in there:
            beside[thing].update(other for other in there if other != thing)
    for name, there, maybe in photos:
        draw = random.Random(name)
        asked = draw.sample(there, min(MOST, len(there)))
        absent = sorted(common.keys() - set(maybe))
        draw.shuffle(absent)
        near: Counter[str] = sum((beside[thing] for thing in there), Counter())
        by_way = (
            absent,
            sorted(absent, key=lambda thing: -common[thing]),
            sorted(absent, key=lambda thing: (-near[thing], -common[thing])),
        )
        yield Chosen(asked, dict(zip(WAYS, by_way, strict=True)))

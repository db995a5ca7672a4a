"""CIDEr-D of single captions against those of a photo, as a reward: what words of the training
captions are common is known beforehand, so that each caption is worth the same in any batch."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from vlm.data.words import tokenize

LONGEST = 4
"""Words of an n-gram, at most."""

DEVIATION = 6.0
"""Of the Gaussian by which another length costs."""

END = "<end>"
"""The last word of a caption that ends. Without it a caption that breaks off costs nothing, and a
model that is rewarded learns to break off (Rennie et al. 2017, section 5)."""

Vector = tuple[list[dict[tuple[str, ...], float]], list[float], int]
"""The weights of a caption's n-grams for each n, their norms, and its number of bigrams."""


class Cider:
    """CIDEr-D (Vedantam et al. 2015), from 0 to 10, as `pycocoevalcap` computes it. `captions` are
    those of each photo of the training set: n-grams of many photos weigh little."""

    def __init__(self, captions: Iterable[Sequence[str]]) -> None:
        photos = [{n for text in texts for n in ngrams(tokenize(text), True)} for texts in captions]
        self._frequency = Counter(ngram for photo in photos for ngram in photo)
        self._photos = math.log(len(photos))

    def __call__(self, caption: str, references: Sequence[str], ended: bool = True) -> float:
        """The score of one caption against the photo's own, at least one, all of which end; `ended`
        says whether it was ended by who wrote it."""
        own = self._vector(caption, ended)
        likeness = sum(alike(own, self._vector(text, True)) for text in references)
        return 10 * likeness / LONGEST / len(references)

    def _vector(self, caption: str, ended: bool) -> Vector:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
        counts = ngrams(tokenize(caption), ended)
        for ngram, count in counts.items():
            rare = self._photos - math.log(max(1, self._frequency[ngram]))
            weights[len(ngram) - 1][ngram] = count * rare
        norms = [math.sqrt(sum(weight**2 for weight in each.values())) for each in weights]
        return weights, norms, sum(n for ngram, n in counts.items() if len(ngram) == 2)


def ngrams(tokenized: str, ended: bool) -> Counter[tuple[str, ...]]:
    """How often each n-gram is in a caption, up to `LONGEST` words."""
    words = [*tokenized.split(), END] if ended else tokenized.split()
    lengths = range(1, LONGEST + 1)
    return Counter(tuple(words[i : i + n]) for n in lengths for i in range(len(words) - n + 1))


def alike(caption: Vector, reference: Vector) -> float:
    """The sum over n of how alike two captions' n-grams are, clipped, less for another length."""
    total = 0.0
    for own, own_norm, its, its_norm in zip(*caption[:2], *reference[:2], strict=True):
        product = sum(min(weight, its[n]) * its[n] for n, weight in own.items() if n in its)
        total += product / (own_norm * its_norm) if own_norm and its_norm else 0.0
    return total * math.exp(-((caption[2] - reference[2]) ** 2) / (2 * DEVIATION**2))

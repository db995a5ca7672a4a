"""What contrastive training reads: photos, each with the texts that are right for it, from captions
and from COCO's boxes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlm.data.formats import format_of
from vlm.data.instances import Objects, plural, read_instances
from vlm.data.photos import Photo
from vlm.data.read import read_source
from vlm.data.records import photo_at
from vlm.data.sample import Skipped, SkipSample
from vlm.data.source import DataSource
from vlm.data.things import class_text, named_things, with_article
from vlm.errors import DataError

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
"""That are told; one is told by the article."""


@dataclass(frozen=True)
class PhotoTexts:
    """A photo with its captions, and with what is said of the classes that it shows; `classes` are
    these, all of them, where people drew boxes, else none."""

    photo: Photo
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return self.captions + self.labels


def read_photo_texts(source: DataSource) -> tuple[list[PhotoTexts], list[Skipped]]:
    """The photos of a source that can be used, and those that cannot; a DataError if it has neither
    captions nor boxes, or nothing that can be used."""
    if format_of(source) == "instances":
        return of_instances(source)
    read, found = read_source(source), []
    skipped = list(read.skipped)
    for sample in read.usable:
        if not sample.questions:
            raise DataError(
                f"{sample.where}: no caption: stage contrast learns from captions and from COCO's "
                "instances"
            )
        if len(sample.photos) != 1:
            skipped.append(Skipped(sample.where, "several photos"))
            continue
        (captions,) = sample.answers
        named = Counter(name for caption in captions for name in named_things(caption))
        # One caption in five may name another thing than there is.
        labels = [class_text(n) for n, count in named.items() if 2 * count >= len(captions)]
        captions = tuple(dict.fromkeys(captions))
        found.append(PhotoTexts(sample.photos[0], captions, tuple(labels)))
    return found, skipped


def of_instances(source: DataSource) -> tuple[list[PhotoTexts], list[Skipped]]:
    """The photos of a file of boxes, of which those without one are skipped."""
    if source.split is not None:
        raise DataError(f"{source.path}: boxes have no splits: leave out split {source.split!r}")
    found, skipped = [], []
    for objects in read_instances(Path(source.path))[: source.limit]:
        try:
            photo = photo_at(source, objects.image)
        except SkipSample as error:
            skipped.append(error.at(objects.where))
            continue
        if not objects.boxes:
            skipped.append(Skipped(objects.where, "no box"))
            continue
        classes = tuple(sorted(objects.boxes))
        found.append(PhotoTexts(photo, (), texts_of(objects), classes))
    if not found:
        raise DataError(f"{source.path}: no photo with a box can be used")
    return found, skipped


def texts_of(objects: Objects) -> tuple[str, ...]:
    """Each class, each with its number where that is certain, and the most frequent together."""
    counts = objects.counts()
    told = {
        name: f"{NUMBERS[counts[name]]} {plural(name)}"
        for name in objects.boxes
        if counts.get(name) in NUMBERS
    }
    texts = [*map(class_text, objects.boxes), *(f"a photo of {text}" for text in told.values())]
    most = sorted(objects.boxes, key=lambda name: (-len(objects.boxes[name]), name))[:4]
    if len(most) > 1:
        *front, last = (told.get(name, with_article(name)) for name in most)
        texts.append(f"a photo of {', '.join(front)} and {last}")
    return tuple(dict.fromkeys(texts))


class Known:
    """Photos with the numbers of their texts, `own`. The same text has one number, of `numbers`,
    and so is right for all the photos that have it."""

    def __init__(self, photos: Sequence[PhotoTexts]) -> None:
        self.photos = photos
        self.numbers: dict[str, int] = {}
        for name in sorted({name for each in photos for name in each.classes}):
            self.numbers.setdefault(class_text(name), len(self.numbers))
        for text in (text for each in photos for text in each.texts):
            self.numbers.setdefault(text, len(self.numbers))
        self.own = [list({self.numbers[text]: None for text in each.texts}) for each in photos]
        places: dict[Photo, set[int]] = {}
        for each, own in zip(photos, self.own, strict=True):
            places.setdefault(each.photo, set()).update(own)
        # Of a photo in two sources, the texts of both.
        self.right_of = [places[each.photo] for each in photos]

    def right(self, photos: Sequence[int], texts: Sequence[int]) -> Tensor:
        """Which of M texts are right for which of N photos, by their numbers: (N, M) bool."""
        columns: dict[int, list[int]] = {}
        for column, text in enumerate(texts):
            columns.setdefault(text, []).append(column)
        right = torch.zeros(len(photos), len(texts), dtype=torch.bool)
        for row, photo in enumerate(photos):
            right[row, [c for t in self.right_of[photo] for c in columns.get(t, ())]] = True
        return right

"""Captions that name the one thing in a photo.

The name is the photo's ImageNet label where there is one, or the thing that its captions agree on,
else what a classifier on EfficientNet-Lite0 (Tan & Le 2019) says: pseudo-labels (Lee 2013). The
classifier is the network's own, of ImageNet's classes, or comes after a probe that captioned photos
of the same kind have taught everyday things (see probe.py); then whole captions can be borrowed
from the photo most alike.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from train.embedded.captioned import photo_of, read_captions
from train.embedded.imagenet import (
    PREPROCESSING,
    Name,
    imagenet_names,
    imagenet_network,
    known_things,
)
from train.embedded.probe import fit, mean_tokens, photos_with_things
from train.embedded.tidy import tidy
from vlm import cli
from vlm.config import VisionConfig
from vlm.data.records import read_records
from vlm.data.things import THINGS, main_thing, named_things
from vlm.errors import DataError
from vlm.files import write_rows
from vlm.images import load_image
from vlm.vision import load_vision

QUESTION = "What is this?"
BATCH_SIZE = 8


def as_captions(names: list[str]) -> list[str]:
    """Sentences of names, each once: `["a tabby cat", "a cat"]` -> `["A tabby cat.", "A cat."]`."""
    return [f"{name[0].upper()}{name[1:]}." for name in dict.fromkeys(names)]


def confident_names(probabilities: Tensor, names: list[Name], threshold: float) -> list[str]:
    """What a photo may be called, the finer name first; empty if the classifier is not sure.

    The everyday word stands if the classes that share it reach the threshold together, and the
    finer name too if its class does alone.

    Args:
        probabilities: of the classes, (C,), float, sum 1.
        names: of the classes, in the same order.
        threshold: lowest probability, 0 to 1.
    """
    together: dict[str, float] = {}
    for name, probability in zip(names, probabilities.tolist(), strict=True):
        together[name.plain] = together.get(name.plain, 0.0) + probability
    plain = max(together, key=together.__getitem__)
    if together[plain] < threshold:
        return []
    best = names[int(probabilities.argmax())]
    fine = best.plain == plain and probabilities.max().item() >= threshold
    return [best.name, plain] if fine else [plain]


def label_captions(data: Path) -> list[dict[str, Any]]:
    """Caption records of the photos in `labels.jsonl` (`image`, `wordnet`) of a folder.

    Raises:
        DataError: a line without these keys, an id that is no ImageNet class, or a missing photo.
    """
    file = data / "labels.jsonl"
    names = imagenet_names()
    records = []
    for record in read_records(file, required=("image", "wordnet")):
        wordnet = record.content["wordnet"]
        name = names.get(wordnet) if isinstance(wordnet, str) else None
        if name is None:
            raise DataError(
                f"{record.where}: {wordnet!r} is not the wordnet id of one of the {len(names)} "
                "ImageNet classes"
            )
        photo_of(file, record)
        records.append(_record(record.content["image"], [name.name, name.plain]))
    return records


def caption_names(data: Path) -> list[dict[str, Any]]:
    """Caption records that name the main thing of the photos in `captions.jsonl` of a folder, by
    what their human captions say; of its `train` split, and only of photos with a main thing.

    Raises:
        DataError: captions that cannot be read, or no photo with a main thing.
    """
    photos = read_captions(data / "captions.jsonl", "train")
    found = [(photo, main_thing(photo.captions)) for photo in photos]
    records = [_record(photo.image.name, [with_article(thing)]) for photo, thing in found if thing]
    if not records:
        raise DataError(
            f"none of {len(photos)} photos in {data} has a main thing that its captions agree on"
        )
    return records


def with_article(thing: str) -> str:
    """`apple` -> `an apple`; what is many or a mass has none: `skis`, `broccoli`."""
    if thing in ("skis", "scissors", "broccoli"):
        return thing
    return f"an {thing}" if thing[0] in "aeiou" else f"a {thing}"


def guessed_captions(
    data: Path, threshold: float, like: Path | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Caption records of the photos in `images/` of a folder that a classifier is sure of: names,
    and whole captions borrowed from captioned photos.

    Args:
        data: the folder.
        threshold: lowest probability.
        like: captioned photos of the same kind, see `probe_guesses`; what they teach comes before
            the ImageNet classes. None leaves it at those, and nothing is borrowed.

    Raises:
        DataError: no photos, or none that a classifier is sure of.
        ImageError: a photo cannot be read.
        WeightsError: the classifier's weights are not installed.
    """
    images = sorted(path for path in (data / "images").glob("*") if path.is_file())
    if not images:
        raise DataError(f"no photos in {data / 'images'}")
    found = imagenet_guesses(images, threshold)
    guesses = {} if like is None else probe_guesses(images, like, threshold)
    found |= {image: [with_article(guess.thing)] for image, guess in guesses.items()}
    if not found:
        raise DataError(
            f"no photo of {len(images)} in {data / 'images'} has a thing of probability "
            f"{threshold:g} or more: lower the threshold"
        )
    Console(stderr=True).print(f"named {len(found)} of {len(images)} photos")
    borrowed = [
        {"image": image.name, "captions": list(map(tidy, guess.captions)), "split": "train"}
        for image, guess in guesses.items()
        if guess.captions
    ]
    return [_record(image.name, found[image]) for image in images if image in found], borrowed


def imagenet_guesses(images: list[Path], threshold: float) -> dict[Path, list[str]]:
    """The photos whose ImageNet class the network's own classifier is sure of, with their names.

    Args:
        images: the photos.
        threshold: lowest probability, see `confident_names`.

    Raises:
        ImageError: a photo cannot be read.
        WeightsError: the classifier's weights are not installed.
    """
    network = imagenet_network()
    names = list(imagenet_names().values())
    found: dict[Path, list[str]] = {}
    starts = range(0, len(images), BATCH_SIZE)
    for start in track(starts, "classifying", console=Console(stderr=True)):
        batch = images[start : start + BATCH_SIZE]
        with torch.inference_mode():
            logits = network(PREPROCESSING.batch([load_image(image) for image in batch]))
        for image, probabilities in zip(batch, logits.softmax(dim=-1), strict=True):
            if sure := confident_names(probabilities, names, threshold):
                found[image] = sure
    return found


@dataclass(frozen=True)
class Guess:
    """What a probe takes a photo for.

    Args:
        thing: one of `THINGS`.
        captions: human captions that name it, of the captioned photo most like this one; none if
            it is the main thing of no captioned photo.
    """

    thing: str
    captions: list[str]


def probe_guesses(images: list[Path], like: Path, threshold: float) -> dict[Path, Guess]:
    """The photos whose main thing a probe is sure of.

    What the network's own classifier says of the things that ImageNet has counts as known before;
    in five-fold cross-validation on COCO photos that raised the share of right names from 51% to
    55%. Captions are borrowed as in Im2Text (Ordonez et al. 2011), from photos with the same thing.

    Args:
        images: the photos.
        like: folder with `captions.jsonl` and photos of the same kind.
        threshold: lowest probability.

    Raises:
        DataError: captions that cannot be read, or of which fewer than two name a thing.
        ImageError: a photo cannot be read.
        WeightsError: the vision tower's weights are not installed.
    """
    photos, shares = photos_with_things(read_captions(like / "captions.jsonl", "train"))
    tower = load_vision(VisionConfig())
    learnt = mean_tokens(tower, [photo.image for photo in photos], "learning things")
    probe = fit(learnt, shares, known_things(learnt))
    features = mean_tokens(tower, images, "naming things")
    probabilities = (probe.logits(features) + known_things(features)).softmax(dim=-1)
    sure, best = (values.tolist() for values in probabilities.max(dim=-1))
    alike = F.normalize(probe.standard(features)) @ F.normalize(probe.standard(learnt)).T
    with_thing: dict[str | None, list[int]] = {}
    for number, photo in enumerate(photos):
        with_thing.setdefault(main_thing(photo.captions), []).append(number)
    guesses = {}
    for row, image in enumerate(images):
        if sure[row] < threshold:
            continue
        thing = list(THINGS)[best[row]]
        lenders = with_thing.get(thing, [])
        nearest = max(lenders, key=alike[row].__getitem__, default=None)
        lent = [] if nearest is None else photos[nearest].captions
        captions = [caption for caption in lent if thing in named_things(caption)]
        guesses[image] = Guess(thing, captions)
    return guesses


def _record(image: str, names: list[str]) -> dict[str, Any]:
    captions = as_captions(names)
    return {"image": image, "captions": captions, "question": QUESTION, "split": "train"}


def at_most(records: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The first so many records of each name, so that common things do not drown rare ones."""
    counts: Counter[str] = Counter()
    kept = []
    for record in records:
        name = record["captions"][-1]
        counts[name] += 1
        if counts[name] <= most:
            kept.append(record)
    return kept


def main(
    data: Path, threshold: float = 0.6, like: Path | None = None, most: int | None = None
) -> None:
    """Write `names.jsonl`: captions that name what photos show, in the form of a captions file.

    Args:
        data: folder with `images/`. Names come from its `labels.jsonl` (image, wordnet) if there is
            one, else from the `train` split of its `captions.jsonl`, else from a classifier.
        threshold: leave out photos of which the classifier is less sure, 0 to 1.
        like: folder with captioned photos of the same kind (`captions.jsonl`), whose things the
            classifier learns first; without it, it knows ImageNet's classes alone. Their captions
            are lent to the photos most like them, in `borrowed.jsonl`.
        most: photos of the same name; all of them without it.
    """
    if not 0 <= threshold <= 1:
        raise DataError(f"threshold must be from 0 to 1, not {threshold}")
    if most is not None and most < 1:
        raise DataError(f"most must be at least 1, not {most}")
    if (data / "labels.jsonl").is_file():
        records = label_captions(data)
    elif (data / "captions.jsonl").is_file():
        records = caption_names(data)
    else:
        records, borrowed = guessed_captions(data, threshold, like)
        if like is not None:
            write_rows(data / "borrowed.jsonl", borrowed)
    kept = records if most is None else at_most(records, most)
    write_rows(data / "names.jsonl", kept)


if __name__ == "__main__":
    raise SystemExit(cli.main(command=partial(cli.run, "python -m train.embedded.names", main)))

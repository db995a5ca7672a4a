"""Captions that name the one thing in a photo.

The name is the photo's ImageNet label where there is one, or the thing that its captions agree on,
else what EfficientNet-Lite0 (Tan & Le 2019) says: pseudo-labels (Lee 2013). `imagenet_names.json`
has, for each of the 1,000 ImageNet classes in order of wordnet id, its own name and the everyday
word for it, both with their article.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite_pytorch import EfficientNet
from rich.console import Console
from rich.progress import track
from torch import Tensor

from vlm import weights
from vlm.captions import image_path, read_captions, read_records, require_images, write_records
from vlm.errors import DataError
from vlm.images import load_image
from vlm.preprocess import Preprocessing
from vlm.things import main_thing

QUESTION = "What is this?"
BATCH_SIZE = 8

# As the network was trained: (x - 127) / 128. With the usual ImageNet mean and standard deviation
# it is right on a tenth fewer photos.
PREPROCESSING = Preprocessing(size=224, resize="crop", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


@dataclass(frozen=True)
class Name:
    """What an ImageNet class is called.

    Args:
        name: the finer name, as in "a tabby cat".
        plain: the everyday word, as in "a cat"; classes may share it.
    """

    name: str
    plain: str


def imagenet_names() -> dict[str, Name]:
    """The names of the 1,000 ImageNet classes by wordnet id, in the order of the classifier."""
    table = json.loads(Path(__file__).with_name("imagenet_names.json").read_text(encoding="utf-8"))
    return {wordnet: Name(**names) for wordnet, names in sorted(table.items())}


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
    records, images = [], []
    for number, record in read_records(file, required=("image", "wordnet")):
        name = names.get(record["wordnet"]) if isinstance(record["wordnet"], str) else None
        if name is None:
            raise DataError(
                f"{file}, line {number}: {record['wordnet']!r} is not the wordnet id of one of the "
                f"{len(names)} ImageNet classes"
            )
        images.append(image_path(file, number, record["image"]))
        records.append(_record(record["image"], [name.name, name.plain]))
    require_images(file, images)
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


def classify_captions(data: Path, threshold: float) -> list[dict[str, Any]]:
    """Caption records of the photos in `images/` of a folder that the classifier is sure of.

    Args:
        data: the folder.
        threshold: lowest probability, see `confident_names`.

    Raises:
        DataError: no photos.
        ImageError: a photo cannot be read.
        WeightsError: the classifier's weights are not installed.
    """
    images = sorted(path for path in (data / "images").glob("*") if path.is_file())
    if not images:
        raise DataError(f"no photos in {data / 'images'}")
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(weights.efficientnet_lite0_state())
    model.eval()
    names = list(imagenet_names().values())
    records = []
    starts = range(0, len(images), BATCH_SIZE)
    for start in track(starts, "classifying", console=Console(stderr=True)):
        batch = images[start : start + BATCH_SIZE]
        with torch.inference_mode():
            logits = model(PREPROCESSING.batch([load_image(image) for image in batch]))
        for image, probabilities in zip(batch, logits.softmax(dim=-1), strict=True):
            if found := confident_names(probabilities, names, threshold):
                records.append(_record(image.name, found))
    if not records:
        raise DataError(
            f"no photo of {len(images)} in {data / 'images'} has a thing of probability "
            f"{threshold:g} or more: lower the threshold"
        )
    Console(stderr=True).print(f"named {len(records)} of {len(images)} photos")
    return records


def _record(image: str, names: list[str]) -> dict[str, Any]:
    captions = as_captions(names)
    return {"image": image, "captions": captions, "question": QUESTION, "split": "train"}


def main(data: Path, threshold: float = 0.6) -> None:
    """Write `names.jsonl`: captions that name what photos show, in the form of a captions file.

    Args:
        data: folder with `images/`. Names come from its `labels.jsonl` (image, wordnet) if there is
            one, else from the `train` split of its `captions.jsonl`, else from the classifier.
        threshold: leave out photos of which the classifier is less sure, 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise DataError(f"threshold must be from 0 to 1, not {threshold}")
    if (data / "labels.jsonl").is_file():
        records = label_captions(data)
    elif (data / "captions.jsonl").is_file():
        records = caption_names(data)
    else:
        records = classify_captions(data, threshold)
    write_records(data / "names.jsonl", records)

"""`vlm score retrieval` and `vlm score zero-shot`: how well a CLIP finds texts for photos, photos
for texts, and what is on a photo."""

from collections.abc import Sequence
from json import dumps
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from eval.benchmarks.captions import captioned
from vlm.clip import DualEncoder, embeddings, load_clip
from vlm.data.instances import read_instances
from vlm.data.things import class_text
from vlm.errors import ImageError
from vlm.retrieval import retrieval as recalls
from vlm.retrieval import zero_shot as accuracies


def retrieval(
    *, captions: Path, split: str = "test", model: str = "embedded", json: bool = False
) -> None:
    """R@1, R@5 and R@10 both ways (Karpathy & Fei-Fei 2015).

    Args:
        captions: folder with captions.jsonl (image, captions, split) and images/, as Flickr8k's.
        split: its part.
        model: `embedded`, or a CLIP as `vlm classify` takes it.
        json: print JSON instead of a table.
    """
    clip, photos = load_clip(model), captioned(captions, split)
    with torch.no_grad():
        texts = clip.text_features([text for _, own in photos for text in own])
    owners = np.repeat(np.arange(len(photos)), [len(own) for _, own in photos])
    found = similarity(clip, [path for path, _ in photos], texts)
    tell(recalls(found, owners == np.arange(len(photos))[:, None]), len(photos), json)


def zero_shot(
    *, instances: Path, images: Path, model: str = "embedded", json: bool = False
) -> None:
    """Whether one of the most similar class names is on the photo, by boxes of COCO's form.

    Args:
        instances: the JSON file, of which photos without a box are left out.
        images: folder of its photos.
        model: `embedded`, or a CLIP as `vlm classify` takes it.
        json: print JSON instead of a table.
    """
    photos = [each for each in read_instances(instances) if each.boxes]
    names = sorted({name for each in photos for name in each.boxes})
    clip = load_clip(model)
    with torch.no_grad():
        texts = clip.text_features([class_text(name) for name in names])
    right = np.array([[name in each.boxes for name in names] for each in photos])
    found = similarity(clip, [images / each.image for each in photos], texts)
    tell(accuracies(found, right), len(photos), json)


def similarity(clip: DualEncoder, photos: Sequence[Path], texts: Tensor) -> np.ndarray:
    """Cosines (N, M) of photos and embeddings of texts (M, D); an ImageError for a photo that
    cannot be read."""
    console = Console(stderr=True)
    rows = []
    for _, found in track(
        embeddings(clip, photos), "Photos", len(photos), console=console, transient=True
    ):
        if isinstance(found, ImageError):
            raise found
        rows.append(found)
    return (torch.stack(rows) @ texts.T.cpu()).numpy()


def tell(scores: dict[str, float], photos: int, json: bool) -> None:
    """Prints scores in percent."""
    if json:
        print(dumps(scores | {"photos": photos}))
        return
    print(f"{photos:,} photos")
    for name, value in scores.items():
        print(f"  {name.replace('_', ' '):<20}{value:5.1f}%")

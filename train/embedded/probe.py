"""A linear probe of things: what a frozen vision tower's patch tokens can tell, read out by one
linear layer (Alain & Bengio 2016) that captioned photos train in seconds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from train.embedded.captioned import CaptionedPhoto
from vlm.data.things import THINGS, named_things
from vlm.errors import DataError
from vlm.images import load_image
from vlm.tower import VisionTower

BATCH_SIZE = 16
STEPS = 150
LEARNING_RATE = 3e-3
# By five-fold cross-validation on 511 captioned COCO photos with a main thing: more photo sizes, or
# the maximum beside the mean, name no more of them right.
WEIGHT_DECAY = 1.0


@dataclass(frozen=True)
class Probe:
    """One linear layer on standardised features.

    Attributes:
        mean: of each feature, (D,).
        deviation: of each feature, (D,).
        weight: (D, C), a column for each of `THINGS`.
        bias: (C,).
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Mean patch tokens (B, D), float32 -> logits (B, C)."""
        return self.standard(features) @ self.weight + self.bias

    def standard(self, features: Tensor) -> Tensor:
        """Features (B, D) with the mean and deviation of those it was fitted to taken away."""
        return (features - self.mean) / self.deviation


@torch.no_grad()
def mean_tokens(
    tower: VisionTower,
    images: list[Path],
    doing: str,
    front: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean patch token of each photo, (B, D), float32.

    Args:
        tower: frozen.
        images: the photos.
        doing: what the progress bar says.
        front: what the patch tokens (B, N, D) pass through first; None is nothing.

    Raises:
        ImageError: a photo cannot be read.
    """
    means = []
    for tokens in patch_tokens(tower, images, doing):
        means.append((front(tokens) if front else tokens).float().mean(dim=1))
    return torch.cat(means)


@torch.no_grad()
def patch_tokens(tower: VisionTower, images: list[Path], doing: str) -> Iterator[Tensor]:
    """Patch tokens (B, N, D) of a few photos at a time, in their order.

    Args:
        tower: frozen.
        images: the photos.
        doing: what the progress bar says.

    Raises:
        ImageError: a photo cannot be read.
    """
    starts = range(0, len(images), BATCH_SIZE)
    for start in track(starts, doing, console=Console(stderr=True)):
        photos = [load_image(image) for image in images[start : start + BATCH_SIZE]]
        yield tower(tower.preprocessing.batch(photos))


def thing_shares(captions: list[str]) -> Tensor:
    """How much a photo is about each of `THINGS`, (C,): the captions that name it, as a share of
    all that name one; zeros if none does."""
    counts = torch.zeros(len(THINGS))
    places = {thing: place for place, thing in enumerate(THINGS)}
    for caption in captions:
        for thing in named_things(caption):
            counts[places[thing]] += 1
    return counts / counts.sum().clamp(min=1)


def photos_with_things(photos: list[CaptionedPhoto]) -> tuple[list[CaptionedPhoto], Tensor]:
    """The photos whose captions name a thing, and their `thing_shares` (B, C).

    Raises:
        DataError: fewer than two, which is nothing to learn from.
    """
    shares = [thing_shares(photo.captions) for photo in photos]
    named = [(photo, share) for photo, share in zip(photos, shares, strict=True) if share.any()]
    if len(named) < 2:
        raise DataError(f"the captions of {len(named)} of {len(photos)} photos name a thing")
    return [photo for photo, _ in named], torch.stack([share for _, share in named])


def fit(features: Tensor, shares: Tensor, offset: Tensor | float = 0.0) -> Probe:
    """Minimises the cross-entropy of one thing for each photo; starts from zero, so that the same
    data give the same probe.

    Args:
        features: mean patch tokens (B, D), float32.
        shares: how much each photo is about each thing (B, C), sum 1.
        offset: added to the probe's logits (B, C): what is known of the photos without it.
    """

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits + offset, shares)

    return _minimise(loss, features, shares.shape[1], bias=0.0, steps=STEPS)


def fit_detectors(features: Tensor, shares: Tensor, weight: Tensor) -> Probe:
    """Minimises the binary cross-entropy of every thing by itself, for things that are rare.

    Args:
        features: mean patch tokens (B, D), float32.
        shares: how much of what is said of each photo names each thing, (B, C), 0 to 1.
        weight: of each photo, (B,).
    """

    def loss(logits: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(logits, shares, reduction="none")
        return (losses.sum(dim=1) * weight).sum() / weight.sum()

    # Things are rare: most logits of most photos end far below 0.
    return _minimise(loss, features, shares.shape[1], bias=-4.0, steps=2 * STEPS)


def _minimise(
    loss: Callable[[Tensor], Tensor], features: Tensor, classes: int, bias: float, steps: int
) -> Probe:
    deviation = features.std(dim=0) + 1e-3
    weights = torch.zeros(features.shape[1], classes, requires_grad=True)
    biases = torch.full((classes,), bias, requires_grad=True)
    probe = Probe(features.mean(dim=0), deviation, weights, biases)
    optimizer = torch.optim.AdamW([weights, biases], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(probe.logits(features)).backward()
        optimizer.step()
    return replace(probe, weight=weights.detach(), bias=biases.detach())

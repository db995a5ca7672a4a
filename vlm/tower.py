"""What every vision tower is to the rest of the model."""

import sys
from abc import ABC, abstractmethod
from functools import cache
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn

from vlm.errors import ConfigError
from vlm.preprocess import Preprocessing
from vlm.tiles import Tiles

MOST_GROWTH = 1.5
"""Times the grid that positions were learned at, by side: a warning tells of a larger one."""


class VisionTower(nn.Module, ABC):
    """A vision model that gives patch tokens (B, N, D), frozen but for layers that training asks
    for. N is `num_tokens`, D `width`, and `grid` the (rows, columns) of the patches. With `tiles`,
    B counts the squares of all photos, see `vlm.tiles`."""

    preprocessing: Preprocessing
    tiles: Tiles | None = None
    width: int
    grid: tuple[int, int]
    num_tokens: int

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; pixel values are brought to it."""
        return next(self.parameters()).dtype

    def see(self, image: Image.Image) -> Tensor:
        """One RGB image -> pixel values (S, 3, H, W) of its squares, one where it is not cut."""
        return self.preprocessing(image)[None] if self.tiles is None else self.tiles(image)

    def train(self, mode: bool = True) -> "VisionTower":
        """Stays in eval mode whatever the parent's mode: dropout or batch statistics in a frozen
        tower would be noise that no gradient can answer to. Where its layers train, their batch
        norms keep the statistics they came with: the batches of a fine-tuning are too small."""
        return super().train(False)

    @abstractmethod
    def grid_at(self, size: int) -> tuple[int, int]:
        """The (rows, columns) of the patches of photos whose side has so many pixels; a ConfigError
        for a side that the tower cannot take."""

    @abstractmethod
    def last_layers(self, count: int | Literal["all"]) -> list[nn.Module]:
        """Modules whose parameters are those of the last layers, as many as asked for, and of what
        stands behind them; `all` is whatever the patch tokens depend on. Parts of the model that
        they do not depend on are left out: they would never have a gradient."""

    def fold(self) -> None:
        """Makes a tower that will not train faster, if it can be: its weights are others then."""

    def gradients(self) -> torch.set_grad_enabled:
        """Context of the forward pass: with gradients where a layer trains. Autograd keeps no
        activations of the frozen layers in front of the first that does."""
        trains = any(parameter.requires_grad for parameter in self.parameters())
        return torch.set_grad_enabled(trains and torch.is_grad_enabled())


def check_divisible(side: int, stride: int) -> None:
    """A ConfigError, which names the nearest that are, for a side of photos that is not a multiple
    of the stride, both in pixels."""
    if side < stride or side % stride:
        below = side // stride * stride
        nearest = f"nearest are {below} and {below + stride}" if below > 0 else f"least is {stride}"
        raise ConfigError(
            f"image size {side} is not a multiple of the tower's {stride} pixels a patch: "
            f"the {nearest}"
        )


def last(layers: nn.ModuleList, count: int) -> list[nn.Module]:
    """The last `count` of a tower's layers."""
    if not 1 <= count <= len(layers):
        raise ConfigError(
            f"the last {count} layers of the vision tower cannot train: it has {len(layers)}"
        )
    return list(layers[len(layers) - count :])


@cache
def warn_of_grid(size: int, grid: int, trained: int) -> None:
    """Tells on stderr, once, of a grid far larger than that of the learned positions, both in
    patches a side."""
    if grid <= MOST_GROWTH * trained:
        return
    print(
        f"warning: image size {size} makes {grid} x {grid} patches, but the tower learned its "
        f"positions at {trained} x {trained}: accuracy falls; take a smaller vision.image_size, a "
        "tower that was trained at more pixels (336 or 384), or train its layers at this size "
        "(trains.vision_layers)",
        file=sys.stderr,
    )

"""RGB image -> normalised pixel values, as each vision tower was trained to see them.

Written on PIL and numpy alone, so that nothing needs torchvision; equal to transformers' own image
processors (tests/test_preprocess.py).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MAX_CROP_ASPECT = 16
"""A photo longer than this many times its width is cut to it before `crop` enlarges it: most of it
falls away anyhow, and one of 1 x 30,000 px would fill the memory."""
MAX_PAD_SIDE = 8192
"""A photo with a longer side, in pixels, is shrunk by a whole factor before `pad` squares it."""


@dataclass(frozen=True)
class Preprocessing:
    """How one tower sees an image: it is resized, then the central square is cut out.

    Attributes:
        size: side in pixels of the square the tower takes.
        resize: `crop`: the shorter edge becomes `shortest_edge` (CLIP); `pad`: the image is centred
            on a square of the mean colour, then resized (LLaVA-1.5); `squash`: resized to a square
            whatever its shape (SigLIP).
        mean, std: of each channel, for values in 0..1.
        resample: PIL's number of the filter.
        shortest_edge: of the resized image, in pixels; None is `size`.
    """

    size: int
    resize: Literal["crop", "pad", "squash"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = Image.Resampling.BICUBIC
    shortest_edge: int | None = None

    def __call__(self, image: Image.Image) -> Tensor:
        """One RGB image -> pixel values (3, size, size), float32."""
        resized = getattr(self, f"_{self.resize}")(image, self.shortest_edge or self.size)
        left, top = (resized.width - self.size) // 2, (resized.height - self.size) // 2
        return self.pixel_values(resized.crop((left, top, left + self.size, top + self.size)))

    def pixel_values(self, square: Image.Image) -> Tensor:
        """The square itself, normalised: (3, size, size), float32."""
        pixels = np.asarray(square, dtype=np.float32) * np.float32(1 / 255)
        pixels = (pixels - np.float32(self.mean)) / np.float32(self.std)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def at(self, size: int) -> "Preprocessing":
        """The same for a square of another side in pixels, its margin in proportion."""
        edge = self.shortest_edge and round(self.shortest_edge * size / self.size)
        return replace(self, size=size, shortest_edge=edge)

    def batch(self, images: list[Image.Image]) -> Tensor:
        """RGB images -> pixel values (B, 3, size, size), float32."""
        return torch.stack([self(image) for image in images])

    def _squash(self, image: Image.Image, edge: int) -> Image.Image:
        return image.resize((edge, edge), self.resample)

    def _pad(self, image: Image.Image, edge: int) -> Image.Image:
        if max(image.size) > MAX_PAD_SIDE:
            image = image.reduce(math.ceil(max(image.size) / MAX_PAD_SIDE))
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(255 * channel) for channel in self.mean))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return self._squash(square, edge)

    def _crop(self, image: Image.Image, edge: int) -> Image.Image:
        short, long = sorted(image.size)
        if long > MAX_CROP_ASPECT * short:
            long = MAX_CROP_ASPECT * short
            width, height = min(image.width, long), min(image.height, long)
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        longer = int(edge * long / short)
        size = (edge, longer) if image.width <= image.height else (longer, edge)
        return image.resize(size, self.resample)


def read_preprocessing(
    processor: object, resize: str = "auto", image_size: int | None = None
) -> Preprocessing:
    """What a transformers image processor of any class does (only its settings are read). `auto`
    and None are its own way to resize and its own side in pixels."""
    size = dict(getattr(processor, "size", None) or {})
    crop = dict(getattr(processor, "crop_size", None) or {})
    shortest = size.get("shortest_edge")
    centre_crop = bool(getattr(processor, "do_center_crop", False)) and bool(crop)
    own_side = crop["height"] if centre_crop else size.get("height") or shortest
    if own_side is None:
        # SigLIP2's processor counts patches instead of pixels.
        own_side = processor.patch_size * math.isqrt(processor.max_num_patches)
    if getattr(processor, "do_pad", False):
        own_resize = "pad"
    else:
        own_resize = "crop" if shortest and centre_crop else "squash"
    if resize == "auto":
        resize = own_resize
    side = own_side if image_size is None else image_size
    edge = shortest or size.get("height") or own_side
    return Preprocessing(
        size=side,
        resize=resize,
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        resample=int(processor.resample),
        # Of another way of resizing, the processor's margin around the square says nothing.
        shortest_edge=round(edge * side / own_side) if resize == own_resize else None,
    )

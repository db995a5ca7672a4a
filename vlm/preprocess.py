"""RGB image -> normalised pixel values, as each vision tower was trained to see them.

Written on PIL and numpy alone, so that nothing needs torchvision; equal to transformers' own image
processors (tests/test_preprocess.py).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """How one tower sees an image.

    Args:
        size: side in pixels of the square the tower takes.
        resize: `crop`: the shorter edge becomes `shortest_edge`, then the central square is cut
            out (CLIP); `pad`: the image is centred on a square of the mean colour, then resized
            (LLaVA-1.5); `squash`: resized to the square whatever its shape (SigLIP).
        mean: of each channel, for values in 0..1.
        std: of each channel, likewise.
        resample: PIL's number of the filter.
        shortest_edge: in pixels, for `crop`; None is `size`.
    """

    size: int
    resize: Literal["crop", "pad", "squash"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = Image.Resampling.BICUBIC
    shortest_edge: int | None = None

    def __call__(self, image: Image.Image) -> Tensor:
        """One RGB image -> pixel values (3, size, size), float32."""
        square = getattr(self, f"_{self.resize}")(image)
        pixels = np.asarray(square, dtype=np.float32) * np.float32(1 / 255)
        pixels = (pixels - np.float32(self.mean)) / np.float32(self.std)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def batch(self, images: list[Image.Image]) -> Tensor:
        """RGB images -> pixel values (B, 3, size, size), float32."""
        return torch.stack([self(image) for image in images])

    def _squash(self, image: Image.Image) -> Image.Image:
        return image.resize((self.size, self.size), self.resample)

    def _pad(self, image: Image.Image) -> Image.Image:
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(255 * channel) for channel in self.mean))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return self._squash(square)

    def _crop(self, image: Image.Image) -> Image.Image:
        edge = self.shortest_edge or self.size
        short, long = sorted(image.size)
        longer = int(edge * long / short)
        width, height = (edge, longer) if image.width <= image.height else (longer, edge)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        # Only the part that is kept is computed: a photo of 1 x 30,000 px costs what another does.
        scale_x, scale_y = image.width / width, image.height / height
        box = (
            left * scale_x,
            top * scale_y,
            (left + self.size) * scale_x,
            (top + self.size) * scale_y,
        )
        return image.resize((self.size, self.size), self.resample, box=box)


def read_preprocessing(
    processor: object, resize: str = "auto", image_size: int | None = None
) -> Preprocessing:
    """What a transformers image processor does, as a `Preprocessing`.

    Args:
        processor: an image processor of any class (only its settings are read).
        resize: one of `Preprocessing`'s ways, or `auto`: the processor's own.
        image_size: side in pixels; None is the processor's own.
    """
    size = dict(getattr(processor, "size", None) or {})
    crop = dict(getattr(processor, "crop_size", None) or {})
    shortest = size.get("shortest_edge")
    centre_crop = bool(getattr(processor, "do_center_crop", False)) and bool(crop)
    own_side = crop["height"] if centre_crop else size.get("height") or shortest
    if own_side is None:
        # SigLIP2's processor counts patches instead of pixels.
        own_side = int(processor.patch_size * processor.max_num_patches**0.5)
    if resize == "auto":
        if getattr(processor, "do_pad", False):
            resize = "pad"
        else:
            resize = "crop" if centre_crop else "squash"
    side = image_size or own_side
    edge = shortest or size.get("height") or side
    return Preprocessing(
        size=side,
        resize=resize,
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        resample=int(processor.resample),
        shortest_edge=round(edge * side / own_side) if resize == "crop" else None,
    )

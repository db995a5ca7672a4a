"""Dual encoder: photos and texts -> embeddings of one space, where what belongs together is near.

CLIP (Radford et al. 2021) reads its similarities by a softmax over the texts, SigLIP (Zhai et al.
2023) each by a sigmoid of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vlm.preprocess import Preprocessing


class DualEncoder(nn.Module, ABC):
    """An image tower and a text tower, with the scale and bias of their similarities.

    Attributes:
        preprocessing: how the image tower sees a photo.
        activation: which reads the logits of a photo: `softmax` over all texts, or `sigmoid`.
        fingerprint: a text that is another one for other weights or another preprocessing.
    """

    preprocessing: Preprocessing
    activation: Literal["softmax", "sigmoid"]
    fingerprint: str

    @abstractmethod
    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Pixel values (B, 3, H, W) -> embeddings (B, D) of length 1."""

    @abstractmethod
    def patch_features(self, pixel_values: Tensor) -> Tensor:
        """Pixel values (B, 3, H, W) -> embeddings (B, N, D) of length 1, of each patch, row by row:
        what the photo's would be if its last attention saw this patch alone. That is the patch's
        value path, as in MaskCLIP (Zhou et al. 2022), but in CLIP's ViT beside what CLS already
        knows, not beside the patch itself."""

    @abstractmethod
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """T texts -> embeddings (T, D) of length 1; of a text that is too long, the beginning."""

    @abstractmethod
    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts that the text tower does not read to their ends."""

    @property
    @abstractmethod
    def scale(self) -> Tensor:
        """Of the logits, the inverse of the temperature; a scalar."""

    @property
    @abstractmethod
    def bias(self) -> Tensor:
        """Of the logits; a scalar, 0 for CLIP."""

    @property
    def device(self) -> torch.device:
        return self.scale.device

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Embeddings (B, D) and (T, D) -> logits (B, T)."""
        return self.scale * images @ texts.T + self.bias

    def probabilities(self, images: Tensor, texts: Tensor) -> Tensor:
        """Embeddings (B, D) and (T, D) -> probabilities (B, T) of each text for each photo."""
        logits = self.logits(images, texts)
        return logits.softmax(-1) if self.activation == "softmax" else logits.sigmoid()

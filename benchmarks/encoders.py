"""Vision towers beside one another, and each beside the model that it is made of, as its library
runs it. Shapes are real, weights and photos are random: nothing is downloaded. See README.md.

    python benchmarks/encoders.py --json
"""

from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass
from json import dumps
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import Any

import torch
from measured import machine, peak_memory
from rich.console import Console
from rich.table import Table
from settings import VIT_B_16
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    Dinov2Config,
    PreTrainedConfig,
    SiglipVisionConfig,
    SwinConfig,
    ViTConfig,
)

from vlm.config import VisionConfig
from vlm.preprocess import Preprocessing
from vlm.vision import TransformerTower, family_of, load_vision

# What is not set is transformers' default: the shape of ViT-B, and of Swin-T.
ENCODERS: dict[str, PreTrainedConfig | None] = {
    "CLIP ViT-B/16": VIT_B_16,
    "SigLIP2 ViT-B/16": SiglipVisionConfig(patch_size=16),
    "DINOv2 ViT-B/14": Dinov2Config(patch_size=14, image_size=518),
    "ViT-B/16": ViTConfig(),
    "Swin-T": SwinConfig(),
    "embedded eye": None,
}
"""The embedded model's tower comes from its wheels, not from a config."""

OURS, LIBRARY = "vlm", "its library"
SIZE = 224
LAYER = -2
"""Side of the photos in pixels; the layer whose patch tokens LLaVA takes."""
BATCH, TIMES = 8, 5
"""Photos at once; batches behind a first one, of which the median counts."""


@dataclass(frozen=True)
class Cost:
    """Of one encoder: its parameters; patch tokens of a photo and 10^9 operations for them, a
    multiplication and its addition being two; photos a second; `peak_memory` of its process."""

    parameters: int
    tokens: int
    gflops: float
    images_per_second: float
    memory: int


def main(json: bool) -> None:
    """Measures each encoder in both ways."""
    # Narrower, the table would not fit: a pipe counts as 80.
    console = Console(highlight=False, width=max(100, Console().width))
    console.print(f"{BATCH} photos of {SIZE} px at once, layer {LAYER}, {machine()}")
    table = Table("", "", "parameters", "tokens", "GFLOPs", "images/s", "speed-up", "memory")
    costs = {}
    for name, config in ENCODERS.items():
        rows = costs[name] = {way: alone(config, way) for way in (LIBRARY, OURS)}
        for way, cost in rows.items():
            faster = cost.images_per_second / rows[LIBRARY].images_per_second
            table.add_row(
                name if way == LIBRARY else "",
                way,
                f"{cost.parameters / 1e6:.1f} M",
                str(cost.tokens),
                f"{cost.gflops:.2f}",
                f"{cost.images_per_second:.2f}",
                f"{faster:.2f}x",
                f"{cost.memory / 2**30:.2f} GiB",
            )
    console.print(table)
    if json:
        encoders = {
            name: {way: asdict(cost) for way, cost in rows.items()} for name, rows in costs.items()
        }
        print(dumps({"machine": machine(), "encoders": encoders}))


def alone(config: PreTrainedConfig | None, way: str) -> Cost:
    """The cost in a process of its own, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        return executor.submit(measure, config, way, SIZE).result()


@torch.no_grad()
def measure(config: PreTrainedConfig | None, way: str, size: int) -> Cost:
    """What an encoder costs: on CUDA in bfloat16, else in float32."""
    on_gpu = torch.cuda.is_available()
    where: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16} if on_gpu else {}
    model, encode = build(config, way, size)
    model.to(**where)
    pixels = torch.randn(BATCH, 3, size, size).to(**where)
    # The backend of attention that torch counts on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        tokens = encode(pixels[:1]).shape[1]
    took = []
    for _ in range(TIMES + 1):
        began = perf_counter()
        # The sum, as a number, waits for the GPU.
        encode(pixels).sum().item()
        took.append(perf_counter() - began)
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tokens=tokens,
        gflops=counter.get_total_flops() / 1e9,
        images_per_second=BATCH / median(took[1:]),
        memory=peak_memory(),
    )


def build(
    config: PreTrainedConfig | None, way: str, size: int
) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """An encoder, and what gives patch tokens (B, N, D) of pixel values (B, 3, size, size)."""
    if config is None:
        tower = load_vision(VisionConfig(image_size=size))
        if way == OURS:
            tower.fold()
            return tower, tower
        network = tower.model
        return network, lambda pixels: network.extract_features(pixels).flatten(2).transpose(1, 2)
    torch.manual_seed(0)
    model = AutoModel.from_config(deepcopy(config)).eval()
    if way == OURS:
        preprocessing = Preprocessing(size, "squash", mean=(0.5,) * 3, std=(0.5,) * 3)
        tower = TransformerTower(model, preprocessing, [LAYER])
        return tower, tower
    special = family_of(config).special_tokens
    return model, lambda pixels: model(pixels, output_hidden_states=True).hidden_states[LAYER][
        :, special:
    ]


if __name__ == "__main__":
    parser = ArgumentParser(description="Measure vision towers beside one another.")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    main(**vars(parser.parse_args()))

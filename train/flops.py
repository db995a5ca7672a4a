"""Floating-point operations that the model needs for a training step, and how many a GPU can do in
the same time: the share of its peak that a run reaches (model FLOPs utilisation, MFU; Chowdhery et
al. 2022, appendix B).

A weight matrix costs 2 operations for each of its weights and each token forward (Kaplan et al.
2020, section 2.1); backward 2 for the gradient of its input and, only where it trains, 2 more for
its own. Attention costs 4 x width for each layer and each pair of tokens forward and twice that
backward, whatever trains; as in the paper, nothing is taken off for causality, and nothing is added
for activations that are computed again.
"""

import re
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vlm.model import VisionLanguageModel

PEAKS = {
    r"B200": 2250e12,
    r"GH200 .*|H200|H100 80GB HBM3": 989.4e12,
    r"H100 NVL|H200 NVL": 835e12,
    r"H100 PCIe": 756e12,
    r"A100[ -].*": 312e12,
    r"L40S": 362e12,
    r"L40": 181e12,
    r"L4": 121e12,
    r"A10": 125e12,
    r"GeForce RTX 4090": 165.2e12,
    r"GeForce RTX 3090": 71e12,
    r"V100-SXM2.*": 125e12,
    r"V100-PCIE.*": 112e12,
    r"T4": 65e12,
}
"""Dense operations a second in bfloat16 with float32 sums, by the names that CUDA gives, from
NVIDIA's data sheets (whose figures with sparsity are twice that); for V100 and T4, which have no
bfloat16, in float16."""


@dataclass(frozen=True)
class ModelFlops:
    """Operations of one training step, forward and backward: for each token of text and images in
    front of the output layer, without padding; for each pair of tokens of the same sequence (T x T
    of T tokens); for each supervised token, whose logits are computed; and for each image."""

    token: float
    pair: float
    target: float
    image: float

    def step(self, tokens: int, pairs: int, targets: int, images: int) -> float:
        return self.token * tokens + self.pair * pairs + self.target * targets + self.image * images


def model_flops(model: VisionLanguageModel, encoded: bool) -> ModelFlops:
    """What a training step is made of, the language model being dense. Call it when it is decided
    what trains, and before the model is wrapped or spread over devices. `encoded`: the batches hold
    patch tokens, so that the vision tower does not run."""
    language = model.language.model
    head = language.get_output_embeddings()
    config = language.config.get_text_config()
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return ModelFlops(
        token=matrix_flops(language) - matrix_flops(head),
        pair=12.0 * config.num_hidden_layers * width,
        target=matrix_flops(head),
        image=image_flops(model, encoded),
    )


def matrix_flops(module: nn.Module) -> float:
    """Operations of one token's way through all weight matrices of a module and back; looking up an
    embedding is free."""
    total = 0.0
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if parameter.ndim >= 2 and not isinstance(part, nn.Embedding):
                # Of 4-bit weights, numel counts the bytes.
                linear = isinstance(part, nn.Linear)
                size = part.in_features * part.out_features if linear else parameter.numel()
                total += size * (6 if parameter.requires_grad else 4)
    return total


def image_flops(model: VisionLanguageModel, encoded: bool) -> float:
    """Operations of one image's way to its image tokens and, as far as anything trains, back;
    counted by torch, since towers differ more than language models do."""
    tower = model.vision
    device = next(tower.parameters()).device
    size = tower.preprocessing.size
    shape = (1, tower.num_tokens, tower.width) if encoded else (1, 3, size, size)
    images = torch.zeros(shape, device=device)
    # As in a training step, since what trains is float32 and the rest may be half precision.
    mixed = torch.autocast(device.type, torch.bfloat16)
    # The backend that torch counts on every device.
    counter = FlopCounterMode(display=False)
    with counter, mixed, sdpa_kernel(SDPBackend.MATH):
        tokens = model.project(images if encoded else tower(images))
        parameters = (*tower.parameters(), *model.projector.parameters())
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if tokens.requires_grad:
            torch.autograd.grad(tokens.sum(), trained, allow_unused=True)
    return float(counter.get_total_flops())


def peak_flops(device: torch.device) -> float | None:
    """Operations a second; None if they are not known."""
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_of(name: str) -> float | None:
    """The entry of `PEAKS` for a GPU by its name; None where there is none, as for a slice of one
    (MIG)."""
    model = re.sub(r"^(NVIDIA |Tesla )+", "", name)
    if "MIG" in model.split():
        return None
    return next((peak for known, peak in PEAKS.items() if re.fullmatch(known, model)), None)

"""Frozen linear layers on a CPU in float32, through oneDNN.

PyTorch leaves matrix products in float32 to MKL, which is made for Intel's CPUs; those of oneDNN,
which it has too and takes for bfloat16, are a fifth faster there and back on others.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

FEWEST = 64
"""Rows below which it would not pay to bring them into oneDNN's layout."""


def through_onednn(model: PreTrainedModel) -> None:
    """For a language model on a CPU: the same numbers but for the last digits. The output head
    keeps its own forward pass: its logits are too many to copy."""
    for module in model.modules():
        frozen = type(module) is nn.Linear and not module.weight.requires_grad
        if frozen and module is not model.get_output_embeddings():
            module.forward = partial(linear, module)


def linear(layer: nn.Linear, rows: Tensor) -> Tensor:
    """What `layer` gives for rows (..., I): (..., O). Other dtypes than float32, and few rows, go
    the usual way."""
    if rows.dtype != torch.float32 or rows.shape[:-1].numel() < FEWEST:
        return F.linear(rows, layer.weight, layer.bias)
    return F.linear(rows.contiguous().to_mkldnn(), layer.weight, layer.bias).to_dense()

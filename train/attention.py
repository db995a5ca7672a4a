"""Attention of short rows on a CPU, for training.

PyTorch's fused kernel is made for long rows: it never has all scores in memory, and computes them
again for the gradient, in float32 whatever the dtype. For short rows it is faster to keep them, and
to leave the work to two matrix products.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask

SHORT_ROWS = "short_rows"
"""Its name among transformers' attention implementations."""

SHORT = 256
"""Tokens of a row up to which the scores are kept."""


def short_rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    dropout: float = 0.0,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention (Vaswani et al. 2017), as transformers calls it: query
    (B, A, T, E), key and value (B, K, S, E), mask (B, 1, T, S) added to the scores -> (B, T, A, E).
    A is a multiple of K: neighbouring heads share a key. PyTorch's own for long rows or dropout."""
    if key.shape[2] > SHORT or dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **settings
        )
    rows, heads, length, width = query.shape
    # A key's heads side by side are one taller matrix: no copy of the keys for each of them.
    grouped = (query * scaling).reshape(rows, key.shape[1], -1, width)
    scores = (grouped @ key.transpose(2, 3)).view(rows, heads, length, -1) + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    mixed = weights.view(rows, key.shape[1], -1, key.shape[2]) @ value
    return mixed.view(query.shape).transpose(1, 2).contiguous(), None


AttentionInterface.register(SHORT_ROWS, short_rows_attention)
AttentionMaskInterface.register(SHORT_ROWS, eager_mask)

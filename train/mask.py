"""Masks of packed rows: each conversation sees its group's common part and itself, nothing else.

What a row holds is written as two numbers for each position (`Batch.blocks`); the mask is made of
them on the device, once for all layers, in the form that the attention implementation reads.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedModel

from train.attention import SHORT_ROWS
from vlm.errors import ConfigError

Mask = Tensor | BlockMask

Visible = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, row, column), integers or tensors that broadcast -> whether row sees column; what
`create_block_mask` calls a mask_mod."""


def attention_for(model: PreTrainedModel, dtype: torch.dtype, packed: bool, long: bool) -> str:
    """The attention implementation that trains these rows fastest, for `set_attn_implementation`.

    - On CUDA, FlexAttention for long packed rows: it skips the blocks of a row that are blind to
      each other, and needs no (T, T) mask; compiling it takes a minute.
    - On CUDA in half precision, FlashAttention 2 for rows that are not packed, where flash-attn is
      installed. It knows no common part that several conversations see.
    - On a CPU in bfloat16, that of attention.py for packed rows.
    - Otherwise PyTorch's: with a mask it stays with fused kernels.

    `dtype` is that of autocast, where there is one; in `long` rows several groups share a row.
    """
    if model.device.type == "cuda":
        if packed and long and model._supports_flex_attn and find_spec("triton"):
            return "flex_attention"
        half = dtype in (torch.float16, torch.bfloat16)
        if not packed and half and model._supports_flash_attn and find_spec("flash_attn"):
            return "flash_attention_2"
    elif packed and dtype == torch.bfloat16 and model._supports_sdpa:
        return SHORT_ROWS
    return "sdpa"


def block_mask(
    blocks: Tensor, position_ids: Tensor, model: PreTrainedModel, dtype: torch.dtype
) -> Mask | dict[str, Mask]:
    """What a model takes as `attention_mask` for packed rows, from `blocks` (B, T, 2) of a `Batch`
    and `position_ids` (B, T): (B, 1, T, T), for `sdpa` on CUDA bool, True where a row sees a
    column; else in `dtype`, 0 there and the least number elsewhere. For `flex_attention` a
    BlockMask. A model that mixes full and sliding windows gets one for each, by the kind of layer.
    A ConfigError if model or implementation cannot keep packed conversations apart."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    only = "full_attention" if window is None else "sliding_attention"
    windows = {"full_attention": None, "sliding_attention": window}
    kinds = set(getattr(config, "layer_types", None) or [only])
    if model._is_stateful or not kinds <= windows.keys():
        raise ConfigError(
            f"{type(model).__name__} has layers other than full or sliding attention, through "
            "which packed conversations would see each other: train it without packing"
        )
    seen = {kind: visible(blocks, position_ids, windows[kind]) for kind in sorted(kinds)}
    implementation = config._attn_implementation
    masks = {kind: build(sees, position_ids, implementation, dtype) for kind, sees in seen.items()}
    return masks if len(masks) > 1 else masks.popitem()[1]


def visible(blocks: Tensor, position_ids: Tensor, window: int | None = None) -> Visible:
    """Which positions of a row each position sees: the common part of its group and its own
    conversation, up to itself, as far as its window. Padding is a group of its own, since a
    position that sees nothing has no softmax."""
    groups, conversations = (numbers.contiguous() for numbers in blocks.unbind(dim=-1))

    def sees(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        seen = conversations[batch, column]
        alike = (seen == 0) | (seen == conversations[batch, row])
        alike = alike & (groups[batch, column] == groups[batch, row]) & (column <= row)
        if window is None:
            return alike
        return alike & (position_ids[batch, row] - position_ids[batch, column] < window)

    return sees


def build(sees: Visible, position_ids: Tensor, implementation: str, dtype: torch.dtype) -> Mask:
    """One mask in the form that an attention implementation reads, see `block_mask`."""
    rows, length = position_ids.shape
    device = position_ids.device
    if implementation == "flex_attention":
        compiled = device.type == "cuda"
        return create_block_mask(sees, rows, None, length, length, str(device), _compile=compiled)
    if implementation not in ("sdpa", "eager", SHORT_ROWS):
        raise ConfigError(
            f"{implementation} cannot keep packed conversations apart: use sdpa or flex_attention"
        )
    index = torch.arange(length, device=device)
    batch = torch.arange(rows, device=device)[:, None, None, None]
    mask = sees(batch, torch.zeros_like(batch), index[:, None], index)
    # On a CPU, SDPA would make numbers of it anew for each head of each layer.
    if implementation == "sdpa" and device.type == "cuda":
        return mask
    least = torch.finfo(dtype).min
    return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, least)

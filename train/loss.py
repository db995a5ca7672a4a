"""Loss: hidden states at the supervised tokens -> cross-entropy; no logits are computed elsewhere,
and those of a large vocabulary are never whole in memory."""

from importlib.util import find_spec
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from train.batch import Batch
from train.frozen_llama import FrozenLlama
from train.mask import block_mask

LOGITS_AT_ONCE = 2**26
"""Logits in memory at a time, 256 MiB in float32: 1,365 tokens of a vocabulary of 49,152."""

ROWS_AT_ONCE = 16
"""Tokens whose logits stay in a CPU's cache."""

HEAD_SCALES = ("lm_head_multiplier", "dim_model_base")
"""Settings of Falcon-H1 and MiniCPM 3 that change what goes through the output head."""


def target_loss(
    model: PreTrainedModel, embeddings: Tensor, batch: Batch, layers: FrozenLlama | None = None
) -> Tensor:
    """Spliced rows (B, T, H) -> cross-entropy of the language model, summed over a batch's n
    supervised tokens, each times its weight if it has one; float32 scalar. `layers` are the model's
    where they need not be transformers' own. Raises as `block_mask`."""
    config = model.config.get_text_config()
    at_once = LOGITS_AT_ONCE // config.vocab_size
    if layers is not None:
        hidden = layers_at_targets(layers, model, embeddings, batch)
        weight = model.get_output_embeddings().weight
        return FrozenHeadLoss.apply(hidden, weight, batch.target_ids, at_once, batch.target_weights)
    mask = batch.attention_mask
    if batch.blocks is not None:
        mask = block_mask(batch.blocks, batch.position_ids, model, embeddings.dtype)
    inputs = {
        "inputs_embeds": embeddings,
        "attention_mask": mask,
        "position_ids": batch.position_ids,
        "use_cache": False,
    }
    if config._attn_implementation == "flex_attention":
        # For rows under 128 tokens it takes its kernel for decoding, which does not train.
        inputs["kernel_options"] = {"FORCE_USE_FLEX_ATTENTION": True}
    if head_is_all(model):
        hidden = model.base_model(**inputs).last_hidden_state
        at_targets = hidden[batch.target_rows, batch.target_positions]
        head = model.get_output_embeddings()
        return head_loss(head, at_targets, batch.target_ids, at_once, batch.target_weights)
    positions, index = batch.target_positions.unique(return_inverse=True)
    logits = model(**inputs, logits_to_keep=positions).logits
    at_targets = logits[batch.target_rows, index]
    return cross_entropy(at_targets, batch.target_ids, batch.target_weights)


def layers_at_targets(
    layers: FrozenLlama, model: PreTrainedModel, embeddings: Tensor, batch: Batch
) -> Tensor:
    """Spliced rows (B, T, H) -> hidden states (n, H) that predict the supervised tokens."""
    blocks = batch.blocks
    if blocks is None:
        # Rows of one conversation: group 0, all of it common, and padding.
        blocks = (batch.attention_mask - 1)[..., None].expand(-1, -1, 2)
    mask = block_mask(blocks, batch.position_ids, model, embeddings.dtype)
    places = batch.target_rows * embeddings.shape[1] + batch.target_positions
    return layers(embeddings, mask, batch.position_ids, places)


def head_is_all(model: PreTrainedModel) -> bool:
    """Whether the logits are the output head's output as it is. Some models scale or cap them
    (Cohere, Granite, Gemma 2), some have further layers in front of the head (BERT)."""
    known = (model.base_model, model.get_output_embeddings())
    if model.base_model is model or known[1] is None:
        return False
    further = [m for m in model.children() if m not in known and any(True for _ in m.parameters())]
    settings = vars(model.config.get_text_config()).items()
    scales = [value for name, value in settings if "logit" in name or name in HEAD_SCALES]
    return not further and all(value in (None, False, 1) for value in scales)


def head_loss(
    head: nn.Module, hidden: Tensor, ids: Tensor, at_once: int, weights: Tensor | None = None
) -> Tensor:
    """Hidden states (n, H), tokens to predict (n,) and their weights -> cross-entropy of an output
    head's logits, summed, float32 scalar; n may be 0. More than `at_once` tokens are taken so many
    at a time, and their logits are computed again for the gradient; or on CUDA by Liger's fused
    kernel (Hsu et al. 2024) where it is installed."""

    def loss(hidden: Tensor, ids: Tensor, weights: Tensor | None) -> Tensor:
        return cross_entropy(head(hidden), ids, weights)

    if len(ids) <= at_once:
        return loss(hidden, ids, weights)
    # Of another layer (quantised, sharded, adapted), the weight is not all that it computes with.
    plain = type(head) is nn.Linear and head.weight.ndim == 2
    # The kernel sums up without weights.
    if hidden.is_cuda and plain and weights is None and find_spec("liger_kernel"):
        return fused_loss(head, hidden, ids)
    each = repeat(None) if weights is None else weights.split(at_once)
    parts = zip(hidden.split(at_once), ids.split(at_once), each, strict=False)
    return torch.stack([checkpoint(loss, *part, use_reentrant=False) for part in parts]).sum()


class FrozenHeadLoss(Function):
    """What `head_loss` gives, of the weight (V, H) of a head that does not train, on a CPU: the
    gradient is computed along with the loss, so logits are neither kept nor computed again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, at_once: int, weights: Tensor | None
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32)
        ctx.gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(ids), at_once):
            part = slice(start, start + at_once)
            logits = F.linear(hidden[part], weight)
            own = None if weights is None else weights[part]
            total += loss_into_gradient(logits, ids[part], own)
            if ctx.gradient is not None:
                torch.mm(logits, weight, out=ctx.gradient[part])
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient * gradient, None, None, None, None


def loss_into_gradient(logits: Tensor, ids: Tensor, weights: Tensor | None) -> Tensor:
    """Cross-entropy of logits (n, V), in whose place its gradient is left."""
    total = torch.zeros((), dtype=torch.float32)
    # A few rows at a time, which stay in the cache.
    for start in range(0, len(ids), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        rows, own = logits[part], ids[part, None]
        scores = rows.float().log_softmax(dim=-1)
        losses = -scores.gather(1, own)
        gradient = scores.exp_().scatter_add_(1, own, torch.full_like(losses, -1))
        if weights is not None:
            losses = losses * weights[part, None]
            gradient *= weights[part, None]
        total += losses.sum()
        rows.copy_(gradient)
    return total


def fused_loss(head: nn.Linear, hidden: Tensor, ids: Tensor) -> Tensor:
    """The same by Liger, which computes the gradient along with the loss, part by part."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss(reduction="sum")(head.weight, hidden, ids, head.bias)


def cross_entropy(logits: Tensor, ids: Tensor, weights: Tensor | None = None) -> Tensor:
    """Of logits (n, V) and tokens (n,), each times its weight (n,), summed, in float32."""
    if weights is None:
        return F.cross_entropy(logits.float(), ids, reduction="sum")
    return F.cross_entropy(logits.float(), ids, reduction="none") @ weights

"""Photos beside texts: their embeddings -> similarities -> a contrastive loss, over batches larger
than memory and over processes."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate import utils as accelerate
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LARGEST_SCALE = 100.0
"""Of the similarities: CLIP's temperature of 0.01 at least, without which training is unstable."""


def encode_in_chunks(encode: Callable[..., Tensor], *inputs: Tensor, at_once: int) -> Tensor:
    """Embeddings (N, D) of inputs (N, ...), of which `at_once` have activations in memory at a time
    (gradient caching, Gao et al. 2021): each chunk is encoded without keeping them, and again when
    the gradient of its embeddings is known, with the same random numbers and autocast. Gradients
    are those of one big batch wherever `encode` treats rows one by one, as all but BatchNorm in
    train mode does. Costs a second forward pass, unless one chunk is all."""
    if len(inputs[0]) <= at_once:
        return encode(*inputs)
    chunks = zip(*(each.split(at_once) for each in inputs), strict=True)
    return torch.cat([checkpoint(encode, *chunk, use_reentrant=False) for chunk in chunks])


def gather(rows: Tensor) -> Tensor:
    """Rows (n, ...) of each process, n being its own -> (N, ...) of all, in the processes' order.

    Each process computes the whole loss of them, so the gradient of its own rows is complete
    without those of others being sent. It is multiplied by the number of processes, because DDP and
    FSDP average over them what is to be summed up; the temperature's, whole in each, is averaged
    rightly. So the loss itself must not be multiplied by that number."""
    state = PartialState()
    if state.num_processes == 1:
        return rows
    sizes = accelerate.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
    padded = accelerate.gather(accelerate.pad_across_processes(rows.detach()))
    parts = [part[:n] for part, n in zip(padded.split(max(sizes)), sizes, strict=True)]
    parts[state.process_index] = own = rows.view_as(rows)
    if own.requires_grad:
        own.register_hook(lambda gradient: gradient * state.num_processes)
    return torch.cat(parts)


def similarities(
    photos: Tensor, texts: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
) -> Tensor:
    """Embeddings (N, D) and (M, D), of any length -> logits (N, M): their cosine times the scale
    `logit_scale.exp()`, plus the bias; float32, under autocast too, as the scale multiplies
    rounding errors.

    Both are learned: CLIP begins with a scale of ln(1 / 0.07) and has no bias, SigLIP with ln(10)
    and -10."""
    with torch.autocast(photos.device.type, enabled=False):
        photos, texts = (F.normalize(each.float(), dim=-1) for each in (photos, texts))
        logits = photos @ texts.T * logit_scale.float().exp()
        return logits if logit_bias is None else logits + logit_bias.float()


@torch.no_grad()
def clamp_scale(logit_scale: Tensor) -> None:
    """Keeps the learned scale at 100 at most, as CLIP does. The parameter itself: clamped where it
    is used, it would have no gradient to come back by."""
    logit_scale.clamp_(max=math.log(LARGEST_SCALE))


def clip_loss(logits: Tensor, right: Tensor) -> Tensor:
    """Symmetric cross-entropy (Radford et al. 2021) of N photos and a text for each.

    Args:
        logits: (N, N) float32, photos by texts; pairs are on the diagonal.
        right: (N, N) bool: what is right off the diagonal is left out, being
            neither the pair to find nor a negative.

    Returns:
        Mean over the pairs and both directions.
    """
    pairs = torch.arange(len(logits), device=logits.device)
    others = right & (pairs[:, None] != pairs)
    logits = logits.masked_fill(others, -math.inf)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def sigmoid_loss(logits: Tensor, right: Tensor) -> Tensor:
    """Pairwise sigmoid loss (Zhai et al. 2023) of N photos and M texts, any number for each photo.

    Args:
        logits: (N, M) float32, photos by texts, with a bias.
        right: (N, M) bool; all others are negatives.

    Returns:
        Sum over the photos, mean over the texts: a text weighs the same however many a photo has.
    """
    return -F.logsigmoid(torch.where(right, logits, -logits)).sum(dim=0).mean()

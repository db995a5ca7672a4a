"""Splice: prompts of different lengths as one padded tensor, image tokens in their slots."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlm.errors import PromptError
from vlm.prompt import IMAGE_SLOT


def pad(rows: list[list[int]], side: str) -> tuple[Tensor, Tensor]:
    """Rows of ids -> ids (B, T), padded with 0, and attention mask (B, T), both int64. The side is
    `left` to generate, so that every row ends where its answer begins; `right` to train."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    masks = [torch.ones_like(row) for row in ids]
    return (
        pad_sequence(ids, batch_first=True, padding_side=side),
        pad_sequence(masks, batch_first=True, padding_side=side),
    )


def splice(embeddings: Tensor, input_ids: Tensor, image_tokens: list[Tensor]) -> Tensor:
    """Embeddings (B, T, H) with each row's image tokens (M, H; M may be 0) in the slots of its ids
    (B, T), in prompt order; differentiable with respect to both. A PromptError if they differ in
    number."""
    slots = input_ids == IMAGE_SLOT
    for row, (count, tokens) in enumerate(
        zip(slots.sum(dim=1).tolist(), image_tokens, strict=True)
    ):
        if count != len(tokens):
            raise PromptError(
                f"row {row} of the batch has {count} image slots but {len(tokens)} image tokens"
            )
    return embeddings.masked_scatter(slots[..., None], torch.cat(image_tokens).to(embeddings.dtype))

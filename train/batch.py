"""Batch: whole conversations -> the tensors of one training step."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from vlm.prompt import Prompt
from vlm.splice import pad


@dataclass(frozen=True)
class Batch:
    """What one training step sees. Text is padded on the right.

    Attributes:
        input_ids: (B, T), `IMAGE_SLOT` where an image token goes, 0 for padding.
        attention_mask: (B, T), 1 for a token and 0 for padding.
        position_ids: (B, T).
        target_rows: row of each supervised token (n,).
        target_positions: position whose logits predict it (n,).
        target_ids: the token itself (n,).
        images: all images, row by row in prompt order: pixel values (I, 3, H, W), or the patch
            tokens (I, N, D) that the vision tower gave for them.
        images_per_row: how many images each row has.
        target_weights: what the loss of each supervised token counts (n,), float32; None is 1.
        blocks: (B, T, 2) for packed rows: number of the group in its row, from 0, and number of the
            conversation in its group, from 1, or 0 for what the group has in common; -1 for both is
            padding. None is one conversation a row.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    target_rows: Tensor
    target_positions: Tensor
    target_ids: Tensor
    images: Tensor
    images_per_row: tuple[int, ...]
    blocks: Tensor | None = None
    target_weights: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device) for k, v in tensors.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def collate(prompts: list[Prompt], images: Tensor) -> Batch:
    """Whole conversations (`answer_next=False`) and all their images in order -> a training batch;
    every supervised token is predicted from the one in front of it."""
    input_ids, mask = pad([prompt.input_ids for prompt in prompts], value=0, side="right")
    supervised, _ = pad([list(map(int, prompt.loss_mask)) for prompt in prompts], 0, side="right")
    rows, positions = supervised.nonzero(as_tuple=True)
    return Batch(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        target_rows=rows,
        target_positions=positions - 1,
        target_ids=input_ids[rows, positions],
        images=images,
        images_per_row=tuple(len(prompt.images) for prompt in prompts),
    )

"""Batch: whole conversations -> the tensors of one training step."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm.prompt import Prompt
from vlm.splice import pad
from vlm.tiles import Layout


@dataclass(frozen=True)
class Batch:
    """What one training step sees. Text is padded on the right. `images` are row by row in prompt
    order: pixel values, or the patch tokens that the vision tower gave for them; where photos are
    cut into tiles, those of all squares, and `layouts` says how each photo is put together.
    `blocks` of packed rows: number of the group in its row, from 0, and number of the conversation
    in its group, from 1, or 0 for what the group has in common; -1 for both is padding."""

    input_ids: Tensor  # (B, T), `IMAGE_SLOT` where an image token goes, 0 for padding
    attention_mask: Tensor  # (B, T), 1 for a token and 0 for padding
    position_ids: Tensor  # (B, T)
    target_rows: Tensor  # (n,), row of each supervised token
    target_positions: Tensor  # (n,), position whose logits predict it
    target_ids: Tensor  # (n,), the token itself
    images: Tensor  # (I, 3, H, W) or (I, N, D); (S, 3, H, W) of squares
    images_per_row: tuple[int, ...]
    layouts: tuple[Layout, ...] = ()  # of I images, or none
    blocks: Tensor | None = None  # (B, T, 2); None is one conversation a row
    target_weights: Tensor | None = None  # (n,), float32, of each one's loss; None is 1

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def collate(prompts: list[Prompt], images: Tensor) -> Batch:
    """Whole conversations (`answer_next=False`) and all their images in order -> a training batch;
    every supervised token is predicted from the one in front of it."""
    input_ids, mask = pad([prompt.input_ids for prompt in prompts], side="right")
    supervised, _ = pad([list(map(int, prompt.loss_mask)) for prompt in prompts], side="right")
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
        layouts=tuple(layout for prompt in prompts for layout in prompt.layouts),
    )

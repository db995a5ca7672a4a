"""Shared-image packing: all conversations about one image behind one copy of its image tokens.

Five captions of a photo, trained one by one, cost five times its image tokens. Here a row holds
what the conversations have in common once (image and question), then each one's own end, blind to
the others by the attention mask and with positions that go on from the common part. That is exact:
the loss and the gradients are those of separate sequences.
"""

import torch
from torch import Tensor

from vlm.batch import Batch, pad
from vlm.errors import PromptError
from vlm.prompt import Prompt


def pack(rows: list[list[Prompt]], images: Tensor) -> Batch:
    """Conversations grouped by image -> a batch with one row for each group.

    Args:
        rows: for each row, conversations about the same images (`answer_next=False`).
        images: each row's once, in order, see `Batch`.

    Raises:
        PromptError: conversations of one row that do not begin alike up to behind their images.
    """
    ids, segments, positions = [], [], []
    target_rows, target_positions, target_ids = [], [], []
    for row, prompts in enumerate(rows):
        shared = shared_length(prompts)
        row_ids = prompts[0].input_ids[:shared]
        row_segments = [0] * shared
        row_positions = list(range(shared))
        for number, prompt in enumerate(prompts, start=1):
            start = len(row_ids)
            own = prompt.input_ids[shared:]
            for offset, (token, supervised) in enumerate(
                zip(own, prompt.loss_mask[shared:], strict=True)
            ):
                if supervised:
                    target_rows.append(row)
                    target_positions.append(start + offset - 1 if offset else shared - 1)
                    target_ids.append(token)
            row_ids = row_ids + own
            row_segments += [number] * len(own)
            row_positions += range(shared, shared + len(own))
        ids.append(row_ids)
        segments.append(row_segments)
        positions.append(row_positions)
    input_ids, _ = pad(ids, value=0, side="right")
    return Batch(
        input_ids=input_ids,
        attention_mask=block_mask(pad(segments, value=-1, side="right")[0]),
        position_ids=pad(positions, value=0, side="right")[0],
        target_rows=torch.tensor(target_rows),
        target_positions=torch.tensor(target_positions),
        target_ids=torch.tensor(target_ids),
        images=images,
        images_per_row=tuple(len(prompts[0].images) for prompts in rows),
    )


def block_mask(segments: Tensor) -> Tensor:
    """Which positions each position may look at.

    Args:
        segments: (B, T): 0 for the common part, 1, 2, ... for each conversation's own, -1 for
            padding.

    Returns:
        (B, 1, T, T) bool: True where row t sees column s: the common part and its own segment, up
        to itself. Padding sees itself alone, since a row that sees nothing has no softmax.
    """
    length = segments.shape[1]
    row, column = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    seen = causal & ((column == 0) | (column == row)) & (row >= 0)
    return (seen | torch.eye(length, dtype=torch.bool, device=segments.device))[:, None]


def shared_length(prompts: list[Prompt]) -> int:
    """Tokens that all conversations begin with, supervised ones left out: a first word that all
    answers share must still be learned once for each.

    Raises:
        PromptError: different images, or an image slot behind the common part.
    """
    shortest = min(len(prompt) for prompt in prompts)
    limit = min([shortest, *(p.loss_mask.index(True) for p in prompts if True in p.loss_mask)])
    first = prompts[0].input_ids
    shared = next(
        (i for i in range(limit) if any(p.input_ids[i] != first[i] for p in prompts)), limit
    )
    behind = any(slot.stop > shared for p in prompts for slot in p.image_slots)
    if shared == 0 or behind or any(p.images != prompts[0].images for p in prompts):
        raise PromptError("conversations packed into one row must begin with the same images")
    return shared

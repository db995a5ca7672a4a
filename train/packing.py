"""Packing: less to compute for the same loss, twice.

Five captions of a photo, trained one by one, cost five times its image tokens. Here a group of
conversations about the same images is one block: what they have in common once (images and
question), then each one's own end, blind to the others by the mask and with positions that go on
from the common part. And short blocks, trained in one batch, cost the padding up to the longest.
Here several share a row, blind to each other, with positions that start again.

Both are exact: the loss and the gradients are those of separate sequences.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from train.batch import Batch
from vlm.errors import PromptError
from vlm.prompt import Prompt
from vlm.splice import pad

NOTHING = Prompt([0], [False], [], [])
"""A conversation that nothing is learned from."""


@dataclass(frozen=True)
class Block:
    """A group of conversations in one sequence of T tokens.

    Attributes:
        input_ids: T token ids.
        conversations: T numbers: 0 for the common part, 1, 2, ... for each conversation's own.
        positions: T numbers.
        targets: each supervised token: the position whose logits predict it, and its id.
    """

    input_ids: list[int]
    conversations: list[int]
    positions: list[int]
    targets: list[tuple[int, int]]


def pack(groups: list[list[Prompt]], images: Tensor, row_length: int | None = None) -> Batch:
    """Conversations grouped by their images -> a batch.

    Args:
        groups: of conversations about the same images, or about none (`answer_next=False`); a
            conversation on its own is a group of one.
        images: each group's once, in order, see `Batch`.
        row_length: tokens of a row that groups may share, see `fill_rows`; None gives each group a
            row of its own, in order.

    Raises:
        PromptError: conversations of one group that do not begin alike up to behind their images.
    """
    blocks = [lay_out(prompts) for prompts in groups]
    counts = [len(prompts[0].images) for prompts in groups]
    rows = [[number] for number in range(len(groups))]
    if row_length is not None:
        rows = fill_rows([len(block.input_ids) for block in blocks], row_length)
        ends = list(accumulate(counts))
        order = [i for row in rows for n in row for i in range(ends[n] - counts[n], ends[n])]
        images = images[torch.tensor(order, dtype=torch.long)]
    ids: list[list[int]] = [[] for _ in rows]
    numbers: list[list[int]] = [[] for _ in rows]
    conversations: list[list[int]] = [[] for _ in rows]
    positions: list[list[int]] = [[] for _ in rows]
    targets: list[tuple[int, int, int]] = []
    for row, members in enumerate(rows):
        for number, block in enumerate(blocks[n] for n in members):
            start = len(ids[row])
            targets += [(row, start + position, token) for position, token in block.targets]
            ids[row] += block.input_ids
            numbers[row] += [number] * len(block.input_ids)
            conversations[row] += block.conversations
            positions[row] += block.positions
    input_ids, mask = pad(ids, value=0, side="right")
    target_rows, target_positions, target_ids = (
        torch.tensor(targets, dtype=torch.long).reshape(-1, 3).unbind(dim=1)
    )
    return Batch(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=pad(positions, value=0, side="right")[0],
        target_rows=target_rows,
        target_positions=target_positions,
        target_ids=target_ids,
        images=images,
        images_per_row=tuple(sum(counts[n] for n in members) for members in rows),
        blocks=torch.stack(
            [pad(each, value=-1, side="right")[0] for each in (numbers, conversations)], dim=-1
        ),
    )


def empty_batch(images: Tensor) -> Batch:
    """A batch with nothing to learn, for a process that has no sample left while others do: its
    loss is 0, and so is the gradient of whatever trains.

    Args:
        images: none, in the form of those in other batches: (0, 3, H, W) or (0, N, D).
    """
    return pack([[NOTHING]], images)


def lay_out(prompts: list[Prompt]) -> Block:
    """Puts the conversations of one group behind what they have in common.

    Raises:
        PromptError: they do not begin alike up to behind their images.
    """
    shared = shared_length(prompts)
    input_ids = prompts[0].input_ids[:shared]
    conversations = [0] * shared
    positions = list(range(shared))
    targets: list[tuple[int, int]] = []
    for number, prompt in enumerate(prompts, start=1):
        start, end = len(input_ids) - shared, needed_length(prompt, shared)
        targets += [
            # The first own token is predicted from the end of the common part.
            (shared - 1 if at == shared else start + at - 1, prompt.input_ids[at])
            for at in range(shared, len(prompt))
            if prompt.loss_mask[at]
        ]
        input_ids = input_ids + prompt.input_ids[shared:end]
        conversations += [number] * (end - shared)
        positions += range(shared, end)
    return Block(input_ids, conversations, positions, targets)


def shared_length(prompts: list[Prompt]) -> int:
    """Tokens that all conversations begin with, supervised ones left out: a first word that all
    answers share must still be learned once for each.

    Raises:
        PromptError: different images, an image slot behind the common part of several
            conversations, or a first token that is supervised.
    """
    shortest = min(len(prompt) for prompt in prompts)
    limit = min([shortest, *(p.loss_mask.index(True) for p in prompts if True in p.loss_mask)])
    if limit == 0:
        raise PromptError("a conversation begins with a supervised token, which nothing predicts")
    first = prompts[0].input_ids
    shared = next(
        (i for i in range(limit) if any(p.input_ids[i] != first[i] for p in prompts)), limit
    )
    several = len(prompts) > 1
    behind = several and any(slot.stop > shared for p in prompts for slot in p.image_slots)
    if behind or any(p.images != prompts[0].images for p in prompts):
        raise PromptError("conversations packed into one row must begin with the same images")
    return shared


def needed_length(prompt: Prompt, shared: int) -> int:
    """Tokens of a conversation that something is predicted from, and its images: nothing looks at
    the last supervised token and what follows it."""
    last = max((at for at, supervised in enumerate(prompt.loss_mask) if supervised), default=0)
    return max([shared, last, *(slot.stop for slot in prompt.image_slots)])


def packed_length(prompts: list[Prompt]) -> int:
    """Tokens of a group's block: the common part once, and of each conversation's own what is
    needed."""
    shared = shared_length(prompts)
    return shared + sum(needed_length(prompt, shared) - shared for prompt in prompts)


def fill_rows(lengths: list[int], row_length: int) -> list[list[int]]:
    """Which blocks share a row: first-fit decreasing (Johnson 1973), the longest first, each into
    the first row that has room for it; a block longer than a row has one of its own.

    Args:
        lengths: tokens of each block.
        row_length: tokens that the blocks of one row have at most.

    Returns:
        For each row the numbers of its blocks; each block is in one row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        length = lengths[number]
        row = next((row for row, left in enumerate(room) if length <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_length)
        rows[row].append(number)
        room[row] -= length
    return rows

"""Packing: less to compute for the same loss, twice.

Five captions of a photo, trained one by one, cost five times its image tokens. Here a group of
conversations about the same images is one block: what they have in common once (images and
question), then each one's own end, blind to the others by the mask and with positions that go on
from the common part. And short blocks, trained in one batch, cost the padding up to the longest.
Here several share a row, blind to each other, with positions that start again.

Both are exact: the loss and the gradients are those of separate sequences.
"""

from itertools import accumulate, takewhile

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from train.batch import Batch
from vlm.errors import PromptError
from vlm.prompt import Prompt

NOTHING = Prompt([0], [False], [], [])
"""A conversation that nothing is learned from."""


def pack(groups: list[list[Prompt]], images: Tensor, row_length: int | None = None) -> Batch:
    """Groups of conversations about the same images or none (`answer_next=False`), and each group's
    images once, in order -> a batch. Groups share rows of `row_length` tokens; for None each has a
    row of its own. A PromptError if conversations of one group do not begin alike up to behind
    their images."""
    blocks = [lay_out(prompts) for prompts in groups]
    counts = [len(prompts[0].images) for prompts in groups]
    rows = [[number] for number in range(len(groups))]
    if row_length is not None:
        rows = fill_rows([len(own) for own, _ in blocks], row_length)
        squares = [prompts[0].squares for prompts in groups]
        ends = list(accumulate(squares))
        order = [i for row in rows for n in row for i in range(ends[n] - squares[n], ends[n])]
        images = images[torch.tensor(order, dtype=torch.long)]
    tokens: list[Tensor] = []
    targets: list[tuple[int, int, int]] = []
    for row, members in enumerate(rows):
        of_row: list[tuple[int, ...]] = []
        for group, (of_block, predicted) in enumerate(blocks[n] for n in members):
            targets += [(row, len(of_row) + place, target) for place, target in predicted]
            of_row += [(token, position, group, own) for token, position, own in of_block]
        tokens.append(torch.tensor(of_row))
    padded = pad_sequence(tokens, batch_first=True, padding_value=-1)
    mask = padded[..., 2] >= 0
    places = torch.tensor(targets, dtype=torch.long).reshape(-1, 3)
    return Batch(
        input_ids=padded[..., 0].where(mask, 0),
        attention_mask=mask.long(),
        position_ids=padded[..., 1].where(mask, 0),
        target_rows=places[:, 0],
        target_positions=places[:, 1],
        target_ids=places[:, 2],
        images=images,
        images_per_row=tuple(sum(counts[n] for n in members) for members in rows),
        layouts=tuple(each for row in rows for n in row for each in groups[n][0].layouts),
        blocks=padded[..., 2:].contiguous(),
    )


def empty_batch(images: Tensor) -> Batch:
    """A batch with nothing to learn, for a process that has no sample left while others do: its
    loss is 0, and so is the gradient of whatever trains. `images` are none, in the form of those in
    other batches: (0, 3, H, W) or (0, N, D)."""
    return pack([[NOTHING]], images)


def lay_out(prompts: list[Prompt]) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
    """The conversations of one group behind what they have in common; of each one's own, what
    something is predicted from: of each token its id, its position, and 0 for the common part or
    the number of the conversation, from 1; of each supervised token the place whose logits predict
    it, and its id."""
    shared = shared_length(prompts)
    tokens = [(token, position, 0) for position, token in enumerate(prompts[0].input_ids[:shared])]
    targets: list[tuple[int, int]] = []
    for number, prompt in enumerate(prompts, start=1):
        start, supervised = len(tokens) - shared, prompt.loss_mask
        targets += [
            # The first own token is predicted from the end of the common part.
            (shared - 1 if at == shared else start + at - 1, prompt.input_ids[at])
            for at in range(shared, len(prompt))
            if supervised[at]
        ]
        # Nothing looks at the last supervised token and what follows it.
        last = max((at for at in range(len(prompt)) if supervised[at]), default=0)
        end = max([last, *(slot.stop for slot in prompt.image_slots)])
        tokens += [(prompt.input_ids[at], at, number) for at in range(shared, end)]
    return tokens, targets


def shared_length(prompts: list[Prompt]) -> int:
    """Tokens that all conversations begin with, supervised ones left out: a first word that all
    answers share must still be learned once for each."""
    supervised = [prompt.loss_mask.index(True) for prompt in prompts if True in prompt.loss_mask]
    if 0 in supervised:
        raise PromptError("a conversation begins with a supervised token, which nothing predicts")
    columns = zip(*(prompt.input_ids for prompt in prompts), strict=False)
    alike = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    shared = min([alike, *supervised])
    several = len(prompts) > 1
    behind = several and any(slot.stop > shared for p in prompts for slot in p.image_slots)
    if behind or any(prompt.images != prompts[0].images for prompt in prompts):
        raise PromptError("conversations packed into one row must begin with the same images")
    return shared


def fill_rows(lengths: list[int], row_length: int) -> list[list[int]]:
    """Which blocks share a row: first-fit decreasing (Johnson 1973), the longest first, each into
    the first row that has room for it; a block longer than a row has one of its own. Lengths of
    the blocks -> the numbers of those in each row."""
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

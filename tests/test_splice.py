"""Batches: padding and targets worked by hand, the splice against a plain loop."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from train.batch import collate
from vlm.errors import PromptError
from vlm.prompt import IMAGE_SLOT, Prompt
from vlm.splice import pad, splice

S = IMAGE_SLOT


def test_pad() -> None:
    rows = [[7, 8, 9], [5], []]
    ids, mask = pad(rows, side="right")
    assert ids.tolist() == [[7, 8, 9], [5, 0, 0], [0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    ids, mask = pad(rows, side="left")
    assert ids.tolist() == [[7, 8, 9], [0, 0, 5], [0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert ids.dtype == mask.dtype == torch.int64


def test_collate_predicts_each_supervised_token_from_the_one_in_front() -> None:
    prompts = [
        Prompt([1, S, S, 5, 6, 7], [False] * 4 + [True] * 2, [range(1, 3)], ["a.jpg"]),
        Prompt([1, 8, 9], [False, True, False], [], []),
        Prompt([S, S, 3, S, S], [False] * 5, [range(2), range(3, 5)], ["b.jpg", "c.jpg"]),
    ]
    patch_tokens = torch.randn(3, 4, 6)
    batch = collate(prompts, patch_tokens)
    assert batch.input_ids.tolist() == [[1, S, S, 5, 6, 7], [1, 8, 9, 0, 0, 0], [S, S, 3, S, S, 0]]
    assert batch.attention_mask.tolist() == [[1] * 6, [1] * 3 + [0] * 3, [1] * 5 + [0]]
    assert batch.position_ids[:, :3].tolist() == [[0, 1, 2]] * 3
    assert batch.target_rows.tolist() == [0, 0, 1]
    assert batch.target_positions.tolist() == [3, 4, 0]
    assert batch.target_ids.tolist() == [6, 7, 8]
    assert batch.images is patch_tokens
    assert batch.images_per_row == (1, 0, 2)
    assert batch.blocks is None


@pytest.mark.parametrize("blocks", [None, torch.zeros(1, 2, 2)])
def test_a_batch_moves_whole(blocks: Tensor | None) -> None:
    batch = collate([Prompt([1, 8], [False, True], [], [])], torch.zeros(0, 4, 6))
    batch = replace(batch, blocks=blocks).to("meta")
    assert {t.device.type for t in vars(batch).values() if isinstance(t, Tensor)} == {"meta"}
    assert batch.images_per_row == (0,)
    assert (batch.blocks is None) == (blocks is None)


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4))
def test_splice_is_a_plain_loop(layout: list[list[bool]]) -> None:
    """Rows without images, several images a row, slots at either end."""
    input_ids = torch.tensor([[S if slot else 1 for slot in row] for row in layout])
    embeddings = torch.randn(len(layout), 6, 3, requires_grad=True)
    image_tokens = [torch.randn(sum(row), 3, requires_grad=True) for row in layout]
    expected = embeddings.detach().clone()
    for r, row in enumerate(layout):
        following = iter(image_tokens[r].detach())
        for t, slot in enumerate(row):
            if slot:
                expected[r, t] = next(following)
    spliced = splice(embeddings, input_ids, image_tokens)
    assert torch.equal(spliced, expected)
    spliced.sum().backward()
    assert torch.equal(embeddings.grad, (input_ids != S)[..., None].float().expand(-1, -1, 3))
    for tokens in image_tokens:
        assert torch.equal(tokens.grad, torch.ones_like(tokens))


def test_splice_takes_the_dtype_of_the_text() -> None:
    spliced = splice(torch.zeros(1, 2, 3).bfloat16(), torch.tensor([[S, 1]]), [torch.ones(1, 3)])
    assert spliced.dtype == torch.bfloat16


def test_splice_names_the_row_whose_counts_differ() -> None:
    # The totals agree: one row has a token too few, the next one too many.
    input_ids = torch.tensor([[S, S, 1], [S, 1, 1]])
    message = "row 0 of the batch has 2 image slots but 1 image tokens"
    with pytest.raises(PromptError, match=message):
        splice(torch.zeros(2, 3, 4), input_ids, [torch.zeros(1, 4), torch.zeros(2, 4)])

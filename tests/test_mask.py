"""Masks of packed rows: a brute-force reference, and what each attention implementation makes of
them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests import tiny
from train.batch import Batch, collate
from train.loss import target_loss
from train.mask import attention_for, block_mask
from train.packing import pack
from vlm.errors import ConfigError
from vlm.language import LanguageModel
from vlm.prompt import Prompt

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": None,
}


def language_model(implementation: str) -> LanguageModel:
    language = tiny.language_model()
    language.model.set_attn_implementation(implementation)
    return language


def loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    return target_loss(model, model.get_input_embeddings()(batch.input_ids), batch)


def conversations(lengths: list[int], common: int, seed: int = 0) -> list[Prompt]:
    """Conversations of random tokens behind a common start, each with a last part to learn."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randint(50, (n,), generator=generator).tolist() for n in (common, *lengths)]
    return [
        Prompt(draw[0] + own, [False] * (common + 1) + [True] * (len(own) - 1), [], [])
        for own in draw[1:]
    ]


NO_IMAGES = torch.zeros(0, 1, 1)


@st.composite
def rows_of_blocks(draw: st.DrawFn) -> tuple[list[list[tuple[int, int]]], list[list[int]]]:
    """Rows of (group, conversation), padded, and their positions."""
    row = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=3)
    rows = [
        [(number, own) for number, group in enumerate(groups) for own in group]
        for groups in draw(st.lists(row, min_size=1, max_size=3))
    ]
    length = max(map(len, rows))
    padded = [row + [(-1, -1)] * (length - len(row)) for row in rows]
    positions = draw(
        st.lists(st.lists(st.integers(0, 9), min_size=length, max_size=length), min_size=len(rows))
    )
    return padded, positions[: len(rows)]


@given(drawn=rows_of_blocks(), window=st.none() | st.integers(1, 5))
def test_the_mask_is_the_naive_loop(drawn: tuple[list, list], window: int | None) -> None:
    blocks, positions = drawn
    tensors = torch.tensor(blocks), torch.tensor(positions)
    model = MistralForCausalLM(MistralConfig(**{**SMALL, "num_hidden_layers": 1}))
    model.config.sliding_window = window
    masks = {}
    for implementation in ("sdpa", "eager", "short_rows", "flex_attention"):
        model.config._attn_implementation = implementation
        masks[implementation] = block_mask(*tensors, model, torch.float32)
    length = len(blocks[0])
    expected = torch.zeros(len(blocks), 1, length, length, dtype=torch.bool)
    for number, row in enumerate(blocks):
        for at, (group, own) in enumerate(row):
            for seen, (other_group, other) in enumerate(row[: at + 1]):
                near = window is None or positions[number][at] - positions[number][seen] < window
                if near and group == other_group and other in (0, own):
                    expected[number, 0, at, seen] = True
    for implementation in ("sdpa", "eager", "short_rows"):
        assert torch.equal(masks[implementation] == 0, expected)
        assert (masks[implementation][~expected] == torch.finfo(torch.float32).min).all()
    flex = masks["flex_attention"]
    dense = create_mask(flex.mask_mod, len(blocks), 1, length, length, device="cpu")
    assert torch.equal(dense, expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("seed", range(3))
def test_flex_attention_is_that_of_the_dense_mask(seed: int) -> None:
    """Its mathematics without its compiled kernels, which train on CUDA only."""
    groups = [
        conversations([90, 140, 7], 60, seed),
        conversations([200], 90),
        conversations([9], 1),
    ]
    batch = pack(groups, NO_IMAGES, row_length=600)
    assert batch.input_ids.shape[0] == 1
    model = language_model("sdpa").model
    dense = block_mask(batch.blocks, batch.position_ids, model, torch.float32)
    model.set_attn_implementation("flex_attention")
    blocks = block_mask(batch.blocks, batch.position_ids, model, torch.float32)
    assert blocks.sparsity() > 0
    query, key, value = torch.randn(3, 1, 2, batch.input_ids.shape[1], 8).unbind()
    torch.testing.assert_close(
        flex_attention(query, key, value, block_mask=blocks),
        scaled_dot_product_attention(query, key, value, attn_mask=dense),
    )


def test_an_additive_mask_has_the_dtype_of_the_embeddings() -> None:
    batch = pack([conversations([3, 4], 2)], NO_IMAGES)
    model = language_model("eager").model
    mask = block_mask(batch.blocks, batch.position_ids, model, torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert torch.equal(mask.isfinite(), torch.ones_like(mask, dtype=torch.bool))


WINDOWS = {
    "one window for all": MistralForCausalLM(MistralConfig(**SMALL, sliding_window=6)),
    "every other layer": Qwen2ForCausalLM(
        Qwen2Config(
            **SMALL,
            use_sliding_window=True,
            sliding_window=6,
            layer_types=["full_attention", "sliding_attention"] * 2,
        )
    ),
}


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "short_rows"])
@pytest.mark.parametrize("name", WINDOWS)
def test_a_sliding_window_counts_positions_not_places_in_the_row(
    name: str, implementation: str
) -> None:
    model = WINDOWS[name].eval()
    model.set_attn_implementation(implementation)
    groups = [conversations([8, 5, 9], 7), conversations([12], 3, seed=1)]
    separate = sum(loss(model, collate([p], NO_IMAGES)) for group in groups for p in group)
    packed = loss(model, pack(groups, NO_IMAGES, row_length=100))
    torch.testing.assert_close(packed, separate, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "model",
    [
        MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1)),
        Lfm2ForCausalLM(Lfm2Config(**SMALL, layer_types=["full_attention", "conv"] * 2)),
    ],
    ids=["mamba", "lfm2"],
)
def test_layers_that_read_no_mask_are_refused(model: PreTrainedModel) -> None:
    batch = pack([conversations([3, 4], 2)], NO_IMAGES)
    with pytest.raises(ConfigError) as raised:
        loss(model, batch)
    assert str(raised.value) == (
        f"{type(model).__name__} has layers other than full or sliding attention, through which "
        "packed conversations would see each other: train it without packing"
    )


def test_an_implementation_without_block_masks_is_refused() -> None:
    model = language_model("sdpa").model
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match=r"^flash_attention_2 cannot keep packed conversations"):
        loss(model, pack([conversations([3, 4], 2)], NO_IMAGES))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("long", [True, False])
def test_the_cpu_has_an_implementation_for_packed_rows_in_bfloat16(
    packed: bool, long: bool
) -> None:
    model = language_model("sdpa").model
    assert attention_for(model, torch.float32, packed, long) == "sdpa"
    expected = "short_rows" if packed else "sdpa"
    assert attention_for(model, torch.bfloat16, packed, long) == expected

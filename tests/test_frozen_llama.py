"""Layers of our own against transformers': loss and gradient, whatever the model and the rows."""

from dataclasses import replace
from types import SimpleNamespace

import peft
import pytest
import torch
import transformers as tf
from accelerate.utils import DistributedType
from torch import Tensor, nn

from tests import tiny
from train import frozen_llama
from train import loss as train_loss
from train.batch import Batch, collate
from train.config import TrainConfig
from train.frozen_llama import FrozenLlama, is_frozen_llama
from train.loss import target_loss
from train.packing import pack
from train.run import speed_up
from vlm.data.source import DataSource
from vlm.prompt import Prompt

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": None,
}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}
MODELS = {
    "llama": tf.LlamaConfig(**SMALL),
    "grouped heads": tf.LlamaConfig(**SMALL, num_key_value_heads=2),
    "one key": tf.LlamaConfig(**SMALL, num_key_value_heads=1),
    "wider heads": tf.LlamaConfig(**SMALL, head_dim=16),
    "tied": tf.LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True),
    "biases": tf.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "scaled positions": tf.LlamaConfig(**SMALL, rope_parameters=LINEAR),
    "mistral": tf.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=None),
    "qwen2": tf.Qwen2Config(**SMALL, num_key_value_heads=2),
    "qwen3": tf.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16),
}
OTHERS = {
    "a window": tf.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8),
    "every other layer": tf.Qwen2Config(
        **SMALL,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=8,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ),
    "another gate": tf.LlamaConfig(**SMALL, hidden_act="gelu"),
    "scaled logits": tf.GraniteConfig(**SMALL, num_key_value_heads=2, logits_scaling=3.0),
    "another class": tf.PhiConfig(**SMALL),
}
NO_IMAGES = torch.zeros(0, 1, 1)


def model_of(config: tf.PreTrainedConfig) -> tf.PreTrainedModel:
    """Random and frozen, biases and norms too."""
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.5, std=0.3)
    return model.requires_grad_(False).eval()


def adapted(config: tf.PreTrainedConfig, **fields: object) -> tf.PreTrainedModel:
    """With random adapters, which train."""
    model = model_of(config)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, lora_alpha=6, **fields), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def prompts(lengths: list[int], common: int, seed: int = 0) -> list[Prompt]:
    """Conversations behind a common start, the later half of each to learn."""
    generator = torch.Generator().manual_seed(seed)
    start, *ends = (
        torch.randint(60, (length,), generator=generator).tolist() for length in [common, *lengths]
    )
    masks = [[False] * common + [2 * at >= len(end) for at in range(len(end))] for end in ends]
    return [Prompt(start + end, mask, [], []) for end, mask in zip(ends, masks, strict=True)]


GROUPS = [prompts([8, 3, 9], 7), prompts([12], 3, seed=1), prompts([2, 1], 2, seed=2)]
BATCHES = {
    "packed": pack(GROUPS, NO_IMAGES),
    "packed, several in a row": pack(GROUPS, NO_IMAGES, row_length=40),
    "padded": collate([prompt for group in GROUPS for prompt in group], NO_IMAGES),
}


def outcome(model: tf.PreTrainedModel, batch: Batch, layers: FrozenLlama | None) -> list[Tensor]:
    """Loss, and gradient of the embeddings."""
    embeddings = model.get_input_embeddings()(batch.input_ids).requires_grad_()
    loss = target_loss(model, embeddings, batch, layers)
    loss.backward()
    # What padding gives goes nowhere.
    return [loss.detach(), embeddings.grad * batch.attention_mask[..., None]]


def assert_same(ours: list[Tensor], theirs: list[Tensor], within: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= within * other.norm()
        assert other.norm() > 0


@pytest.mark.parametrize("short", [512, 4], ids=["short", "long"])
@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_are_those_of_transformers(
    name: str, rows: str, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_llama, "SHORT", short)
    model, batch = model_of(MODELS[name]), BATCHES[rows]
    assert is_frozen_llama(model)
    expected = outcome(model, batch, None)
    layers = FrozenLlama(model)
    assert_same(outcome(model, batch, layers), expected, 1e-5)
    # The model computes with the same weights still.
    assert_same(outcome(model, batch, None), expected, 1e-6)
    one, other = layers.layers[1].qkv.weight, model.model.layers[1].self_attn.v_proj.weight
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj", "up_proj"]])
@pytest.mark.parametrize("name", ["grouped heads", "biases", "qwen3"])
def test_adapters_add_and_learn_as_in_peft(name: str, targets: str | list[str]) -> None:
    model, batch = adapted(MODELS[name], target_modules=targets), BATCHES["packed"]
    assert is_frozen_llama(model)

    def learned(layers: FrozenLlama | None) -> list[Tensor]:
        """Loss, and the gradients of embeddings and adapters."""
        model.zero_grad()
        found = outcome(model, batch, layers)
        return found + [p.grad for n, p in model.named_parameters() if ".lora_" in n]

    expected = learned(None)
    assert len(expected) >= 2 + 3 * 3 * 2
    assert_same(learned(FrozenLlama(model)), expected, 1e-5)
    assert_same(learned(None), expected, 1e-6)


@pytest.mark.parametrize(
    "fields", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}], ids=str
)
def test_adapters_that_do_more_keep_pefts_layers(fields: dict) -> None:
    assert not is_frozen_llama(adapted(MODELS["biases"], target_modules=["q_proj"], **fields))


def test_a_merged_adapter_keeps_pefts_layers() -> None:
    model = adapted(MODELS["llama"], target_modules=["q_proj"])
    model.model.layers[0].self_attn.q_proj.merge()
    assert not is_frozen_llama(model)


@pytest.mark.parametrize("at_once", [1, 3, 1000])
@pytest.mark.parametrize("weighed", [False, True])
def test_logits_some_at_a_time(
    weighed: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_loss, "LOGITS_AT_ONCE", at_once * SMALL["vocab_size"])
    monkeypatch.setattr(train_loss, "ROWS_AT_ONCE", 2)
    model, batch = model_of(MODELS["llama"]), BATCHES["packed"]
    if weighed:
        batch = replace(batch, target_weights=torch.linspace(-1, 2, len(batch.target_ids)))
    expected = outcome(model, batch, None)
    layers = FrozenLlama(model)
    assert_same(outcome(model, batch, layers), expected, 1e-5)
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(batch.input_ids)
        alone = target_loss(model, embeddings, batch, layers)
    torch.testing.assert_close(alone, expected[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["grouped heads", "qwen2", "qwen3"])
def test_bfloat16_is_as_near_to_float32_as_transformers_is(name: str) -> None:
    model, batch = model_of(MODELS[name]), BATCHES["packed"]
    exact = outcome(model, batch, None)
    model.bfloat16()
    theirs, ours = outcome(model, batch, None), outcome(model, batch, FrozenLlama(model))
    assert ours[1].dtype == torch.bfloat16
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        assert (mine.float() - true).norm() <= 1.5 * (
            other.float() - true
        ).norm() + 1e-2 * true.norm()


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_keep_transformers_layers(name: str) -> None:
    assert not is_frozen_llama(model_of(OTHERS[name]))


def test_what_trains_or_is_not_plain_keeps_them_too() -> None:
    model = model_of(MODELS["llama"])
    model.model.norm.weight.requires_grad_()
    assert not is_frozen_llama(model)
    model = model_of(MODELS["llama"])
    model.model.norm.bfloat16()
    assert not is_frozen_llama(model)


@pytest.mark.parametrize(
    ("fields", "precision", "kind", "expected"),
    [
        ({}, "no", DistributedType.NO, True),
        ({}, "no", DistributedType.MULTI_CPU, True),
        ({}, "no", DistributedType.FSDP, False),
        ({"gradient_checkpointing": True}, "no", DistributedType.NO, False),
        ({"compile": True}, "no", DistributedType.NO, False),
        # Kept in float32, they would be cast in each step all the same.
        ({}, "bf16", DistributedType.NO, False),
    ],
)
def test_which_runs_have_them(
    fields: dict, precision: str, kind: DistributedType, expected: bool
) -> None:
    accelerator = SimpleNamespace(mixed_precision=precision, distributed_type=kind)
    config = TrainConfig(data=[DataSource("x")], **fields)
    layers = speed_up(tiny.vision_language_model(), config, accelerator)
    assert isinstance(layers, FrozenLlama) is expected

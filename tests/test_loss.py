"""The loss against that of the whole model's logits, whatever stands between layers and logits."""

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from torch import Tensor, nn

from tests import tiny
from train import loss as train_loss
from train.batch import Batch, collate
from train.loss import head_is_all, target_loss
from vlm.prompt import Prompt

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}
PLAIN = [
    tf.LlamaConfig(**SMALL),
    tf.Qwen2Config(**SMALL, tie_word_embeddings=True),
    tf.GraniteConfig(**SMALL),
    tf.PhiConfig(**SMALL),
    tf.GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4),
    tf.OPTConfig(
        vocab_size=60, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4
    ),
]
SCALED = [
    tf.GraniteConfig(**SMALL, logits_scaling=3.0),
    tf.CohereConfig(**SMALL, logit_scale=0.3),
    tf.Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=1.0),
    tf.MiniCPM3Config(
        **SMALL | {"num_key_value_heads": 4},
        dim_model_base=8,
        q_lora_rank=16,
        kv_lora_rank=8,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
    ),
    tf.BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        is_decoder=True,
    ),
]


def random_model(config: tf.PreTrainedConfig) -> tf.PreTrainedModel:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def batch() -> Batch:
    """Three conversations of other lengths, their targets at other places."""
    flags = [[0, 0, 1, 1, 0, 1], [0, 1, 1], [0, 0, 0, 1]]
    ids = torch.arange(100).mul(7).remainder(60).tolist()
    prompts = [
        Prompt(ids[n : n + len(row)], [bool(flag) for flag in row], [], [])
        for n, row in enumerate(flags)
    ]
    return collate(prompts, torch.zeros(0, 1, 1))


def reference(model: tf.PreTrainedModel, embeddings: Tensor, batch: Batch) -> Tensor:
    logits = model(
        inputs_embeds=embeddings,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).logits[batch.target_rows, batch.target_positions]
    return F.cross_entropy(logits.double(), batch.target_ids, reduction="sum").float()


@pytest.mark.parametrize("config", PLAIN + SCALED, ids=lambda config: type(config).__name__)
def test_the_loss_is_that_of_the_models_own_logits(config: tf.PreTrainedConfig) -> None:
    model, data = random_model(config), batch()
    assert head_is_all(model) == any(config is plain for plain in PLAIN)
    embeddings = model.get_input_embeddings()(data.input_ids).detach().requires_grad_()
    expected = reference(model, embeddings, data)
    ours = target_loss(model, embeddings, data)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(ours, embeddings)
    (other,) = torch.autograd.grad(expected, embeddings)
    assert (gradient - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("at_once", [1, 2, 4, 5, 6, 100])
def test_logits_at_the_targets_only_and_some_at_a_time(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = random_model(SCALED[0]), batch()
    model.config.logits_scaling = 1.0
    embeddings = model.get_input_embeddings()(data.input_ids).detach().requires_grad_()
    inputs = [embeddings, model.lm_head.weight, *model.model.layers.parameters()]
    whole = reference(model, embeddings, data)
    expected = torch.autograd.grad(whole, inputs)

    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(logits.shape[0]))
    monkeypatch.setattr(train_loss, "LOGITS_AT_ONCE", at_once * 60)
    ours = target_loss(model, embeddings, data)
    assert sum(seen) == len(data.target_ids) == 6
    assert max(seen) <= at_once
    torch.testing.assert_close(ours, whole, rtol=1e-5, atol=0)
    for gradient, other in zip(torch.autograd.grad(ours, inputs), expected, strict=True):
        assert (gradient - other).norm() <= 1e-4 * other.norm()


def test_under_autocast_the_head_is_in_half_precision_and_the_loss_is_not() -> None:
    model, data = tiny.language_model().model, batch()
    dtypes: list[torch.dtype] = []
    model.lm_head.register_forward_hook(lambda _, __, logits: dtypes.append(logits.dtype))
    embeddings = model.get_input_embeddings()(data.input_ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = target_loss(model, embeddings, data)
    assert dtypes == [torch.bfloat16]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, reference(model, embeddings, data), rtol=0.02, atol=0)

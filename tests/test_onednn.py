"""Frozen layers through oneDNN: the same numbers, and who goes that way."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn

from tests import tiny
from train.config import TrainConfig
from train.onednn import FEWEST, linear, through_onednn
from train.run import uses_onednn
from vlm.config import LoraConfig
from vlm.data.source import DataSource
from vlm.language import LanguageModel


def outcome(language: LanguageModel, rows: Tensor) -> list[Tensor]:
    """Logits, and the gradients of the embeddings and of all that trains."""
    embeddings = rows.clone().requires_grad_()
    logits = language(embeddings)
    logits.square().mean().backward()
    trains = [p for p in language.parameters() if p.requires_grad]
    gradients = [embeddings.grad, *(parameter.grad.clone() for parameter in trains)]
    language.zero_grad()
    return [logits.detach(), *gradients]


@pytest.mark.parametrize("adapted", [False, True])
def test_the_numbers_are_the_same(adapted: bool) -> None:
    language = tiny.language_model()
    if adapted:
        torch.manual_seed(0)
        language.add_lora(LoraConfig(rank=4))
        for name, parameter in language.named_parameters():
            if ".lora_B." in name:
                nn.init.normal_(parameter)
    rows = torch.randn(3, 50, 32, generator=torch.Generator().manual_seed(1))
    usual = outcome(language, rows)
    through_onednn(language.model)
    for ours, theirs in zip(outcome(language, rows), usual, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def way(monkeypatch: pytest.MonkeyPatch, rows: Tensor) -> bool:
    """Whether rows go through oneDNN."""
    seen = []
    convert = Tensor.to_mkldnn
    monkeypatch.setattr(Tensor, "to_mkldnn", lambda self: seen.append(1) or convert(self))
    layer = nn.Linear(8, 5).requires_grad_(False)
    expected = layer.to(rows.dtype)(rows)
    torch.testing.assert_close(linear(layer, rows), expected)
    return bool(seen)


def test_many_rows_of_float32_go_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert way(monkeypatch, torch.randn(2, FEWEST // 2, 8))
    assert way(monkeypatch, torch.randn(8, FEWEST).t())


@pytest.mark.parametrize(
    "rows", [torch.randn(FEWEST - 1, 8), torch.randn(FEWEST, 8, dtype=torch.bfloat16)]
)
def test_few_rows_and_other_dtypes_do_not(monkeypatch: pytest.MonkeyPatch, rows: Tensor) -> None:
    assert not way(monkeypatch, rows)


def test_what_trains_and_the_output_head_keep_their_way() -> None:
    language = tiny.language_model()
    trains = language.model.model.layers[1].mlp.up_proj.requires_grad_()
    through_onednn(language.model)
    changed = {n for n, m in language.model.named_modules() if "forward" in vars(m)}
    assert trains not in [language.model.get_submodule(name) for name in changed]
    assert changed == {
        f"model.layers.{layer}.{name}"
        for layer in range(2)
        for name in (
            *(f"self_attn.{each}_proj" for each in "qkvo"),
            *(f"mlp.{each}_proj" for each in ("gate", "up", "down")),
        )
    } - {"model.layers.1.mlp.up_proj"}


@pytest.mark.parametrize(
    ("precision", "kind", "compiled", "expected"),
    [
        ("no", DistributedType.NO, False, True),
        ("no", DistributedType.MULTI_CPU, False, True),
        ("bf16", DistributedType.NO, False, False),
        ("no", DistributedType.FSDP, False, False),
        ("no", DistributedType.NO, True, False),
    ],
)
def test_it_is_for_whole_float32_weights(
    precision: str, kind: DistributedType, compiled: bool, expected: bool
) -> None:
    accelerator = SimpleNamespace(mixed_precision=precision, distributed_type=kind)
    config = TrainConfig(data=[DataSource("x")], compile=compiled)
    assert uses_onednn(tiny.vision_language_model(), config, accelerator) is expected

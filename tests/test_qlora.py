"""QLoRA on the CPU: gradients through 4-bit weights are those through what they stand for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

import vlm
from tests import tiny, tiny_folders
from train.config import TrainConfig, Trains
from train.freeze import freeze
from train.loss import target_loss
from vlm.config import LanguageConfig, LoraConfig, ModelConfig

bitsandbytes = pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """Its language model's widths are multiples of bitsandbytes' block of 64."""
    folder = tmp_path_factory.mktemp("parts")
    config = tiny_folders.model_config(folder)
    tiny.language_model(hidden=64).model.save_pretrained(config.language.source)
    return config


def trained(config: ModelConfig, load_in: str | None, way: str) -> vlm.VisionLanguageModel:
    """A model with adapters as a run has it at its first step, the adapters not zero."""
    language = LanguageConfig(config.language.source, load_in=load_in, lora=LoraConfig(rank=4))
    torch.manual_seed(0)
    model = vlm.build(replace(config, language=language), "cpu")
    config = TrainConfig(data=[], trains=Trains(language=way), learning_rate=1e-4)
    freeze(model, config, Console(quiet=True))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def dequantise(quantised: vlm.VisionLanguageModel, whole: vlm.VisionLanguageModel) -> None:
    """Puts the weights that 4-bit ones stand for into a float32 model."""
    for name, module in quantised.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(
                module.weight.data, module.weight.quant_state
            )
            whole.get_submodule(name).weight.data = weight.float()


def gradients(model: vlm.VisionLanguageModel) -> dict[str, Tensor]:
    batch = tiny.training_batch(model)
    model.train()(batch, target_loss).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_gradients_are_those_of_the_dequantised_weights(config: ModelConfig) -> None:
    """Also after a sample answer, at which bitsandbytes would repack the weights on some CPUs."""
    quantised, whole = trained(config, "4bit", "qlora"), trained(config, None, "lora")
    dequantise(quantised, whole)
    answer = quantised.eval().chat("What is in the picture?", tiny.photo(), max_tokens=2)
    assert answer == whole.eval().chat("What is in the picture?", tiny.photo(), max_tokens=2)
    found, expected = gradients(quantised), gradients(whole)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4)


def test_a_step_changes_adapters_and_projector_only(config: ModelConfig, tmp_path: Path) -> None:
    model = trained(config, "4bit", "qlora")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.optim.AdamW(parameters, lr=1e-3).step()
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert all(name.startswith("projector.") or ".lora_" in name for name in changed)
    assert {name.split(".")[0] for name in changed} == {"projector", "language"}
    model.save(tmp_path / "checkpoint")
    loaded = vlm.load(tmp_path / "checkpoint", device="cpu")
    question = "What is in the picture?"
    assert torch.equal(loaded.logits(question), model.eval().logits(question))

"""Operations of a step: by hand, and as torch counts them in a real one."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests import tiny, tiny_folders
from train.batch import Batch, collate
from train.flops import matrix_flops, model_flops, peak_flops, peak_of
from train.loss import target_loss
from vlm.config import LoraConfig, ProjectorConfig
from vlm.language import load_language
from vlm.model import VisionLanguageModel

LAYER = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64
"""Weights of a layer of the tiny Llama: query, key and value of half the heads, output, MLP."""


def batch(model: VisionLanguageModel, encoded: bool, photos: int = 2) -> Batch:
    image = {"type": "image", "image": tiny.photo()}
    content = [image, {"type": "text", "text": "What is in the picture?"}]
    conversation = [{"role": "user", "content": content}, {"role": "assistant", "content": "A cat"}]
    prompt = model.prompt(conversation, answer_next=False)
    if encoded:
        images = model.encode_images([tiny.photo()] * photos)
    else:
        images = model.vision.preprocessing.batch([tiny.photo()] * photos)
    return collate([prompt] * photos, images)


def counted(model: VisionLanguageModel, batch: Batch) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(batch, target_loss).backward()
    return counter.get_total_flops()


def expected(model: VisionLanguageModel, batch: Batch, encoded: bool) -> float:
    rows, length = batch.input_ids.shape
    targets = len(batch.target_ids)
    flops = model_flops(model, encoded)
    return flops.step(rows * length, rows * length**2, targets, len(batch.images))


def test_by_hand() -> None:
    """One linear layer as projector, 16 patch tokens of 24 features, two layers of width 32."""
    model = tiny.vision_language_model(ProjectorConfig(kind="linear"))
    vocabulary = len(model.language.tokenizer)
    assert asdict(model_flops(model, encoded=True)) == {
        # Through frozen weights: 2 forward, 2 back.
        "token": 4 * 2 * LAYER,
        # Two layers: scores and sum, 2 x 32 each forward, twice that back.
        "pair": 2 * 12 * 32,
        "target": 4 * 32 * vocabulary,
        # Nothing in front of the projector trains: 2 forward, 2 for its weights.
        "image": 4 * 24 * 32 * 16,
    }


def test_lora_by_hand() -> None:
    model = tiny.vision_language_model()
    frozen = model_flops(model, encoded=True).token
    model.language.add_lora(LoraConfig(rank=4, targets=["q_proj"]))
    assert model_flops(model, encoded=True).token == frozen + 2 * 6 * (32 * 4 + 4 * 32)


def test_half_precision_under_layers_that_train() -> None:
    """As `freeze` leaves them: the tower's last layer in float32 between others that are not."""
    models = tiny.vision_language_model(), tiny.vision_language_model()
    models[1].to(torch.bfloat16)
    for model in models:
        for module in [*model.vision.last_layers(1), model.projector]:
            module.float().requires_grad_()
    whole, half = (model_flops(model, encoded=False) for model in models)
    assert whole == half


@pytest.mark.parametrize("encoded", [True, False])
@pytest.mark.parametrize("kind", ["mlp", "resampler"])
@pytest.mark.parametrize("trains", ["projector", "lora", "all"])
def test_a_real_step_takes_as_many(trains: str, kind: str, encoded: bool) -> None:
    model = tiny.vision_language_model(ProjectorConfig(kind=kind, queries=4))
    if trains == "lora":
        model.language.add_lora(LoraConfig(rank=4))
    if trains == "all":
        model.requires_grad_(True)
    example = batch(model, encoded)
    assert len(example.target_ids) > 0
    real = counted(model, example)
    # Logits of a batch are computed where any row has a target; here all rows are alike.
    assert expected(model, example, encoded) == pytest.approx(real, rel=0.01)


def test_4_bit_weights_cost_what_they_stand_for(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = tiny_folders.model_config(tmp_path).language
    whole, quantised = (
        load_language(replace(config, load_in=bits), torch.device("cpu"), torch.float32).model
        for bits in (None, "4bit")
    )
    assert matrix_flops(quantised) == matrix_flops(whole)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = tiny.vision_language_model()
    before = torch.get_rng_state()
    model_flops(model, encoded=False)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA GeForce RTX 3090", 71e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("Tesla T4", 65e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        # Other chips than those their names begin like, or parts of them.
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A10G", None),
        ("NVIDIA A1000", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_peaks_by_name(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None

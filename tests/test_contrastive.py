"""Contrastive losses against transformers' and plain loops, chunks against the whole batch, two
processes against one."""

import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from tests import contrastive_processes, tiny_runs
from train.contrastive import (
    clamp_scale,
    clip_loss,
    encode_in_chunks,
    gather,
    sigmoid_loss,
    similarities,
)

TEXT = {"vocab_size": 30, "max_position_embeddings": 8}
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
VISION = {"image_size": 16, "patch_size": 8, **SIZES}


def clip() -> CLIPModel:
    text = {**TEXT, **SIZES, "eos_token_id": 29, "pad_token_id": 0}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))


def siglip() -> SiglipModel:
    text = {**TEXT, **SIZES, "pad_token_id": 0, "projection_size": 16}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))


@pytest.mark.parametrize("build", [clip, siglip])
def test_losses_of_pairs_are_those_of_transformers(build: type) -> None:
    torch.manual_seed(0)
    model = build().eval()
    inputs = {"pixel_values": torch.randn(6, 3, 16, 16), "input_ids": torch.randint(1, 30, (6, 8))}
    expected = model(**inputs, return_loss=True)
    bias = getattr(model, "logit_bias", None)
    photos, texts = 3 * expected.image_embeds, expected.text_embeds / 2  # of any length
    logits = similarities(photos, texts, model.logit_scale, bias)
    torch.testing.assert_close(
        logits, expected.logits_per_image, rtol=1e-5, atol=1e-5, check_stride=False
    )
    loss = (clip_loss if bias is None else sigmoid_loss)(logits, torch.eye(6, dtype=torch.bool))
    torch.testing.assert_close(loss, expected.loss.reshape(()), rtol=1e-5, atol=1e-6)
    trained = [model.logit_scale, model.visual_projection.weight if bias is None else bias]
    torch.testing.assert_close(
        torch.autograd.grad(loss, trained, retain_graph=True),
        torch.autograd.grad(expected.loss.sum(), trained),
        rtol=1e-4,
        atol=1e-6,
    )


def test_what_is_right_is_no_negative_of_the_clip_loss() -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(5, 5)).requires_grad_()
    # As where the second and fourth photo are one, and the first and last have the same text.
    right = torch.eye(5, dtype=torch.bool)
    right[[0, 1, 3, 4], [4, 3, 1, 0]] = True
    total = 0.0
    for rows in (logits.tolist(), logits.T.tolist()):
        for own in range(5):
            others = [own] + [j for j in range(5) if {own, j} not in ({own}, {1, 3}, {0, 4})]
            total -= rows[own][own] - math.log(sum(math.exp(rows[own][j]) for j in others))
    loss = clip_loss(logits, right)
    assert loss.item() == pytest.approx(total / 10, rel=1e-5)
    loss.backward()
    assert logits.grad.isfinite().all()
    off_diagonal = right & ~torch.eye(5, dtype=torch.bool)
    assert off_diagonal.sum() == 4
    assert (logits.grad == 0).equal(off_diagonal)


def test_one_photo_throughout_has_nothing_to_tell_apart() -> None:
    assert clip_loss(torch.randn(4, 4), torch.ones(4, 4, dtype=torch.bool)) == 0


def test_the_sigmoid_loss_takes_several_texts_a_photo() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 5)
    right = torch.tensor([[True, True, False, False, False], [False, False, True, True, True]])
    losses = [
        math.log1p(math.exp(-value if right[i][j] else value))
        for i, row in enumerate(logits.tolist())
        for j, value in enumerate(row)
    ]
    assert sigmoid_loss(logits, right).item() == pytest.approx(sum(losses) / 5, rel=1e-5)


def test_the_scale_stays_at_100_and_comes_back() -> None:
    scale = nn.Parameter(torch.tensor(9.0))
    clamp_scale(scale)
    assert scale.exp().item() == pytest.approx(100, rel=1e-5)
    one = torch.eye(2)
    # With pairs that do not match, a lower scale is better.
    pairs = torch.eye(2, dtype=torch.bool)
    clip_loss(similarities(one, one.flip(0), scale), pairs).backward()
    assert scale.grad > 0
    low = nn.Parameter(torch.tensor(2.0))
    clamp_scale(low)
    assert low == 2


def test_similarities_are_float32_under_autocast() -> None:
    torch.manual_seed(0)
    photos, texts = torch.randn(3, 8), torch.randn(4, 8)
    expected = similarities(photos, texts, torch.tensor(4.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert similarities(photos, texts, torch.tensor(4.0)).equal(expected)


def towers() -> nn.ModuleDict:
    torch.manual_seed(0)
    image = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
    text = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12))
    return nn.ModuleDict({"image": image, "text": text, "scale": nn.Linear(1, 1, bias=False)})


def kept(encode: Callable[..., Tensor], *inputs: Tensor, at_once: int) -> Tensor:
    """Chunks with all their activations kept."""
    chunks = zip(*(each.split(at_once) for each in inputs), strict=True)
    return torch.cat([encode(*chunk) for chunk in chunks])


def loss_and_gradients(
    embed: Callable[..., Tensor], at_once: int, dropped: float = 0.0
) -> list[Tensor]:
    """Of 7 photos, of two inputs each, beside 7 texts."""
    model = towers()
    first, second, words = torch.randn(3, 7, 12).unbind()
    photos = embed(
        lambda a, b: F.dropout(model["image"](a) * b, dropped), first, second, at_once=at_once
    )
    texts = embed(model["text"], words, at_once=at_once)
    logits = similarities(photos, texts, model["scale"].weight.squeeze())
    loss = clip_loss(logits, torch.eye(7, dtype=torch.bool))
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("at_once", [1, 3, 6])
def test_gradients_of_chunks_are_those_of_one_big_batch(at_once: int) -> None:
    chunks = loss_and_gradients(encode_in_chunks, at_once)
    expected = loss_and_gradients(kept, at_once=7)
    torch.testing.assert_close(chunks, expected, rtol=1e-5, atol=1e-6)


def test_chunks_are_encoded_again_with_the_same_dropout() -> None:
    chunks = loss_and_gradients(encode_in_chunks, 3, dropped=0.4)
    expected = loss_and_gradients(kept, 3, dropped=0.4)
    torch.testing.assert_close(chunks, expected, rtol=1e-5, atol=1e-6)
    assert not chunks[0].equal(loss_and_gradients(kept, 3)[0])


@pytest.mark.parametrize(("at_once", "most"), [(8, 8), (2, 2)])
def test_one_chunk_has_activations_at_a_time(at_once: int, most: int) -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    seen: list[weakref.ref[Tensor]] = []
    rows: list[int] = []

    def encode(inputs: Tensor) -> Tensor:
        hidden = (inputs @ weight).exp()  # exp keeps its output for the gradient
        seen.append(weakref.ref(hidden))
        rows.append(sum(len(each) for ref in seen if (each := ref()) is not None))
        return hidden @ weight

    embeddings = encode_in_chunks(encode, torch.randn(8, 4), at_once=at_once)
    embeddings.square().sum().backward()
    assert max(rows) == most
    assert len(rows) == (1 if at_once == 8 else 2 * 4)


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    """Of different numbers of photos and texts each, in chunks, under DDP."""
    file = tmp_path / "two.safetensors"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "tests.contrastive_processes", str(file)],
        env=tiny_runs.environment(),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, two = contrastive_processes.gradients(Accelerator(cpu=True)), load_file(file)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert all(one[f"{kind} image.0.weight"].abs().max() > 1e-3 for kind in ("clip", "sigmoid"))


def test_rows_of_one_process_are_all() -> None:
    rows = torch.randn(2, 3)
    assert gather(rows) is rows

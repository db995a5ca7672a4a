"""Fast kernels of a CUDA machine against plain ones; skipped where there is none."""

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from train.batch import Batch
from train.loss import cross_entropy, fused_loss, target_loss
from train.mask import attention_for
from train.packing import empty_batch, pack
from vlm.config import LoraConfig
from vlm.model import VisionLanguageModel
from vlm.prompt import IMAGE_SLOT, Prompt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def model_on_cuda() -> VisionLanguageModel:
    """Wider than the other tests' model: the kernels need heads of at least 16 features."""
    model = tiny.vision_language_model()
    model.language = tiny.language_model(hidden=64)
    model.projector.projection.linear_2 = nn.Linear(32, 64)
    model.language.add_lora(LoraConfig(rank=2))
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.cuda().train()


def packed(model: VisionLanguageModel, groups: int, row_length: int) -> Batch:
    """Groups of three conversations about a photo, of other lengths."""
    generator = torch.Generator().manual_seed(groups)

    def draw(length: int) -> list[int]:
        return torch.randint(3, 300, (length,), generator=generator).tolist()

    def prompt(start: list[int], length: int) -> Prompt:
        shared = len(start)
        flags = [False] * (shared + 2) + [True] * length
        slots = [range(model.projector.num_tokens)]
        return Prompt(start + draw(length + 2), flags, slots, ["photo"])

    conversations = []
    for number in range(groups):
        start = [IMAGE_SLOT] * model.projector.num_tokens + draw(2 + number % 5)
        conversations.append([prompt(start, 5 + 7 * number % 40) for _ in range(3)])
    images = torch.randn(groups, model.vision.num_tokens, model.vision.width, generator=generator)
    return pack(conversations, images, row_length).to("cuda")


def loss_and_gradients(
    model: VisionLanguageModel, batch: Batch, implementation: str
) -> tuple[Tensor, list[Tensor]]:
    model.language.model.set_attn_implementation(implementation)
    loss = model(batch, target_loss)
    trained = [p for p in model.parameters() if p.requires_grad]
    return loss, list(torch.autograd.grad(loss, trained))


@pytest.mark.parametrize(("groups", "row_length"), [(3, 100), (12, 500), (31, 1300)])
def test_flex_attention_trains_like_a_dense_mask(groups: int, row_length: int) -> None:
    model = model_on_cuda()
    batch = packed(model, groups, row_length)
    expected, gradients = loss_and_gradients(model, batch, "sdpa")
    ours, others = loss_and_gradients(model, batch, "flex_attention")
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=0)
    for gradient, other in zip(others, gradients, strict=True):
        assert (gradient - other).norm() <= 1e-3 * other.norm()


def test_flex_attention_is_for_long_packed_rows() -> None:
    model = model_on_cuda().language.model
    assert attention_for(model, torch.bfloat16, packed=True, long=True) == "flex_attention"
    assert attention_for(model, torch.bfloat16, packed=True, long=False) == "sdpa"
    assert attention_for(model, torch.float32, packed=False, long=False) == "sdpa"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-4), (True, 2e-2)])
def test_the_fused_loss_is_that_of_the_logits(bias: bool, half: bool, tolerance: float) -> None:
    pytest.importorskip("liger_kernel")
    torch.manual_seed(0)
    head = nn.Linear(64, 1000, bias=bias, device="cuda")
    hidden = torch.randn(300, 64, device="cuda", requires_grad=True)
    ids = torch.randint(1000, (300,), device="cuda")
    inputs = [hidden, *head.parameters()]
    expected = cross_entropy(head(hidden), ids)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=half):
        fused = fused_loss(head, hidden, ids)
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, expected, rtol=tolerance, atol=0)
    gradients = torch.autograd.grad(3 * expected, inputs)
    for gradient, other in zip(torch.autograd.grad(3 * fused, inputs), gradients, strict=True):
        assert (gradient - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_an_empty_batch_has_gradients_of_zero(implementation: str) -> None:
    model = model_on_cuda()
    nothing = torch.zeros(0, model.vision.num_tokens, model.vision.width)
    loss, gradients = loss_and_gradients(model, empty_batch(nothing).to("cuda"), implementation)
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in gradients)

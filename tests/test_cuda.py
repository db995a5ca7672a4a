"""What only a CUDA machine can show; skipped where there is none."""

from pathlib import Path

import pytest
import torch

import vlm

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_cuda_and_bfloat16_are_the_default_there() -> None:
    model = vlm.load("embedded")
    assert model.device.type == "cuda"
    assert model.language.dtype == torch.bfloat16
    photo = Path(__file__).parent.parent / "examples" / "chelsea.png"
    assert "cat" in model.chat("What is this?", images=[photo], max_tokens=20).lower()


def test_float32_logits_agree_with_the_cpu() -> None:
    on_cpu = vlm.load("embedded", device="cpu").logits("What is the capital of France?")
    on_gpu = vlm.load("embedded", dtype=torch.float32).logits("What is the capital of France?")
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-2, rtol=1e-3)

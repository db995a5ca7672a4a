"""Attention of short rows: PyTorch's own, forwards and backwards."""

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from train import attention
from train.attention import short_rows_attention


class Layer(nn.Module):
    """What transformers' attention reads of a layer with two heads for each key."""

    num_key_value_groups = 2
    is_causal = True


def inputs(length: int) -> tuple[list[Tensor], Tensor]:
    """Query, key and value of 3 rows, 4 heads and 2 keys, and a causal mask to add."""
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(3, length, heads, 8, generator=generator).transpose(1, 2).requires_grad_()
        for heads in (4, 2, 2)
    ]
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
    return tensors, mask.expand(3, 1, -1, -1)


@pytest.mark.parametrize("short", [attention.SHORT, 4])
def test_it_is_scaled_dot_product_attention(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SHORT", short)
    results = []
    for function in (short_rows_attention, sdpa_attention_forward):
        tensors, mask = inputs(9)
        output, weights = function(Layer(), *tensors, mask, scaling=0.3)
        assert weights is None
        output.square().sum().backward()
        results.append([output, *(tensor.grad for tensor in tensors)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_softmax_of_lower_precision_is_in_float32() -> None:
    tensors, mask = inputs(40)
    lower = [tensor.bfloat16() for tensor in tensors]
    ours, _ = short_rows_attention(Layer(), *lower, mask, scaling=0.3)
    theirs, _ = sdpa_attention_forward(
        Layer(), *(each.float() for each in lower), mask, scaling=0.3
    )
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), theirs, rtol=0.02, atol=0.02)


def test_dropout_is_left_to_pytorch() -> None:
    torch.manual_seed(0)
    tensors, mask = inputs(9)
    output, _ = short_rows_attention(Layer(), *tensors, mask, scaling=0.3, dropout=0.999)
    assert (output == 0).float().mean() > 0.5

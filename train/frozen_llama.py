"""Frozen layers of a Llama-shaped language model, as training runs them on a CPU.

transformers' layers can do everything; here nothing but the gradient of what goes in is computed,
products of the same rows are one product, and the rest is as few passes over memory as there can
be: of a step on a CPU with fast products, it is what takes the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

KNOWN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
"""Models whose layers are norm, attention, norm and gated feed-forward, in transformers' names."""

SHORT = 512
"""Tokens of a row up to which all scores are kept: PyTorch's fused attention, made for longer rows,
computes them again for the gradient, and in float32 whatever the dtype."""


@dataclass(frozen=True)
class Layer:
    """Weights of a layer, (out, in) as in `nn.Linear`; `qkv` and `gate_up` one below the other.
    Head norms are Qwen3's, of queries and of keys."""

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    head_norms: tuple[Tensor, Tensor] | None
    out: Tensor
    out_bias: Tensor | None
    feed_forward_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class FrozenLlama:
    """All layers and the norm behind them, of a model for which `is_frozen_llama` holds. Its own
    weights become views of these, so they are in memory once."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        self.heads, self.keys = config.num_attention_heads, config.num_key_value_heads
        self.eps = config.rms_norm_eps
        self.rotary = model.model.rotary_emb
        self.norm = model.model.norm.weight
        self.layers = [fused(layer) for layer in model.model.layers]

    def __call__(
        self, embeddings: Tensor, mask: Tensor, position_ids: Tensor, at: Tensor
    ) -> Tensor:
        """Embeddings (B, T, H), a mask (B, 1, T, T) to add to the scores and positions (B, T) ->
        hidden states (n, H) at the places (n,) in the rows laid end to end, normed."""
        # Everything has one dtype already: autocast would look at each operation for nothing.
        with torch.autocast(embeddings.device.type, enabled=False):
            cos, sin = self.rotary(embeddings, position_ids)
            if embeddings.shape[1] <= SHORT:
                grouped = mask.expand(-1, self.heads, -1, -1)
                mask = grouped.reshape(len(mask) * self.keys, -1, mask.shape[-1])
            rows = embeddings.flatten(0, 1)
            for number, layer in enumerate(self.layers, start=1):
                seen = self.attention(rows, layer, mask, cos, sin)
                if number == len(self.layers):
                    rows, seen = rows[at], seen[at]
                rows = plus_product(rows, seen, layer.out, layer.out_bias)
                hidden = RMSNorm.apply(rows, layer.feed_forward_norm, self.eps)
                hidden = Gate.apply(F.linear(hidden, layer.gate_up, layer.gate_up_bias))
                rows = plus_product(rows, hidden, layer.down, layer.down_bias)
            return RMSNorm.apply(rows, self.norm, self.eps)

    def attention(
        self, rows: Tensor, layer: Layer, mask: Tensor, cos: Tensor, sin: Tensor
    ) -> Tensor:
        """Rows (B T, H) -> what each has seen (B T, A E), in front of the output projection."""
        hidden = RMSNorm.apply(rows, layer.norm, self.eps)
        qkv = F.linear(hidden, layer.qkv, layer.qkv_bias)
        qkv = qkv.view(*cos.shape[:2], self.heads + 2 * self.keys, -1)
        if layer.head_norms is not None:
            query, key, value = qkv.split([self.heads, self.keys, self.keys], dim=2)
            query = RMSNorm.apply(query, layer.head_norms[0], self.eps)
            qkv = torch.cat([query, RMSNorm.apply(key, layer.head_norms[1], self.eps), value], 2)
        query, key, value = Rotate.apply(qkv, cos, sin, self.heads, self.keys)
        if mask.ndim == 3:
            seen = short_attention(query, key, value, mask)
        else:
            key, value = (x.repeat_interleave(self.heads // self.keys, 1) for x in (key, value))
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return seen.transpose(1, 2).reshape(len(rows), -1)


def is_frozen_llama(model: PreTrainedModel) -> bool:
    """Whether a model has the shape that `FrozenLlama` computes, nothing in it trains, and its
    weights are plain: not adapted, quantised or sharded, and of one dtype."""
    if type(model) not in KNOWN or any(p.requires_grad for p in model.parameters()):
        return False
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if type(model) is MistralForCausalLM else None
    plain = config.hidden_act == "silu" and kinds == {"full_attention"} and window is None
    plain &= type(model.lm_head) is nn.Linear
    names = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
    for layer in model.model.layers:
        plain &= {name for name, _ in layer.named_children()} == names
        plain &= all(type(part) is nn.Linear for part in linear_layers(layer))
    return plain and len({p.dtype for p in model.parameters()}) == 1


def linear_layers(layer: nn.Module) -> Iterator[nn.Module]:
    """The seven of a layer, as they are fused: queries, keys, values, output, gate, up, down."""
    yield from (getattr(layer.self_attn, f"{name}_proj") for name in ("q", "k", "v", "o"))
    yield from (getattr(layer.mlp, f"{name}_proj") for name in ("gate", "up", "down"))


@torch.no_grad()
def fused(layer: nn.Module) -> Layer:
    """A layer's weights; those of the module become views of them."""
    query, key, value, out, gate, up, down = linear_layers(layer)
    attention = layer.self_attn
    head_norms = None
    if hasattr(attention, "q_norm"):
        head_norms = attention.q_norm.weight, attention.k_norm.weight
    qkv, qkv_bias = joined([query, key, value])
    gate_up, gate_up_bias = joined([gate, up])
    return Layer(
        norm=layer.input_layernorm.weight,
        qkv=qkv,
        qkv_bias=qkv_bias,
        head_norms=head_norms,
        out=out.weight,
        out_bias=out.bias,
        feed_forward_norm=layer.post_attention_layernorm.weight,
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=down.weight,
        down_bias=down.bias,
    )


def joined(linears: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Weights and biases one below the other; the layers then hold views."""
    weight = torch.cat([each.weight for each in linears])
    for each, part in zip(linears, weight.split([len(e.weight) for e in linears]), strict=True):
        each.weight.data = part
    if linears[0].bias is None:
        return weight, None
    return weight, torch.cat([each.bias for each in linears])


def plus_product(rows: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows (R, O) + linear layer of hidden (R, I)."""
    return torch.addmm(rows if bias is None else rows + bias, hidden, weight.t())


def short_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Query (B, A, T, E), key and value (B, K, T, E), mask (B K, A / K T, T) -> (B, A, T, E); a
    key's heads side by side are one taller matrix."""
    key, value = key.flatten(0, 1), value.flatten(0, 1)
    grouped = query.view(len(key), -1, query.shape[-1])
    scores = torch.baddbmm(mask, grouped, key.mT, alpha=query.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(dim=-1), value).view(query.shape)


class RMSNorm(Function):
    """Zhang & Sennrich 2019, over the last dimension; the weight (H,) is frozen."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, eps: float) -> Tensor:
        norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norms.square_().div_(rows.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(rows, weight, scale)
        return torch.mul(rows, scale, out=torch.empty_like(rows)).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows, weight, scale = ctx.saved_tensors
        gradient = gradient * weight
        along = (gradient * rows).sum(dim=-1, keepdim=True, dtype=torch.float32)
        along.mul_(scale.pow(3)).div_(rows.shape[-1])
        return gradient.mul_(scale).addcmul_(rows, along.to(rows.dtype), value=-1), None, None


class Gate(Function):
    """SwiGLU (Shazeer 2020): gate and up side by side (R, 2 I) -> silu(gate) * up (R, I)."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(gate_up, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gate_up, opened = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        both = torch.empty_like(gate_up)
        of_gate, of_up = both.chunk(2, dim=-1)
        torch.mul(opened, gradient, out=of_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=of_gate)
        return both


class Rotate(Function):
    """Heads of queries, keys and values (B, T, A + 2 K, E) -> each as attention reads them,
    (B, A, T, E) and twice (B, K, T, E), queries and keys with rotary positions (Su et al. 2021) of
    cos and sin (B, T, E)."""

    @staticmethod
    def forward(
        ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor, queries: int, keys: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        parts = heads.transpose(1, 2).split([queries, keys, keys], dim=1)
        query, key = (rotate(x, cos[:, None], sin[:, None], new(x)) for x in parts[:2])
        return query, key, parts[2].contiguous()

    @staticmethod
    def backward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = (x[:, None] for x in ctx.saved_tensors)
        sizes = [query.shape[1], key.shape[1], value.shape[1]]
        heads = query.new_empty(len(query), query.shape[2], sum(sizes), query.shape[3])
        parts = heads.transpose(1, 2).split(sizes, dim=1)
        # The other way round is the transposed rotation.
        rotate(query, cos, -sin, parts[0])
        rotate(key, cos, -sin, parts[1])
        parts[2].copy_(value)
        return heads, None, None, None, None


def rotate(heads: Tensor, cos: Tensor, sin: Tensor, into: Tensor) -> Tensor:
    """Pairs of features, one in each half of the last dimension, turned; written into `into`."""
    half = heads.shape[-1] // 2
    torch.mul(heads, cos, out=into)
    into[..., :half].addcmul_(heads[..., half:], sin[..., :half], value=-1)
    into[..., half:].addcmul_(heads[..., :half], sin[..., half:])
    return into


def new(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype)

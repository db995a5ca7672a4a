"""Frozen layers of a Llama-shaped language model, perhaps with low-rank adapters, as training runs
them on a CPU.

transformers' layers can do everything; here nothing but the gradient of what goes in and of the
adapters is computed, products of the same rows are one product, and the rest is as few passes over
memory as there can be: of a step on a CPU with fast products, it is what takes the time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear as LoraLinear
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
class Adapter:
    """LoRA's factors (Hu et al. 2021) of a layer (O, I): down (r, I) and up (O, r), which train, in
    float32, and what their product is scaled by. Of a layer without an adapter, r is 0."""

    down: Tensor
    up: Tensor
    scale: float


class Product:
    """Linear layers of the same rows as one: weight (O, I) and bias (O,), frozen, in which they
    are one below the other, and their adapters."""

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        """Their weights become views of this one's."""
        frozen = [getattr(linear, "base_layer", linear) for linear in linears]
        self.weight = torch.cat([each.weight for each in frozen])
        parts = self.weight.split([len(each.weight) for each in frozen])
        for each, part in zip(frozen, parts, strict=True):
            each.weight.data = part
        biases = [each.bias for each in frozen if each.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        self.adapters = list(map(adapter, linears))
        self.adapted = any(len(each.down) for each in self.adapters)

    def __call__(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """What the layers make of hidden (R, I), side by side (R, O), on top of rows (R, O)."""
        if rows is None and not self.adapted:
            return F.linear(hidden, self.weight, self.bias)
        start = self.bias if rows is None else rows if self.bias is None else rows + self.bias
        if not self.adapted:
            return torch.addmm(start, hidden, self.weight.t())
        down = torch.cat([each.down for each in self.adapters])
        # Each one's own columns: none adds to another's output.
        up = torch.block_diag(*(each.up * each.scale for each in self.adapters))
        dtype = hidden.dtype
        return AdaptedProduct.apply(start, hidden, self.weight, down.to(dtype), up.to(dtype))


@dataclass(frozen=True)
class Layer:
    """Norms (H,) and products of a layer; head norms are Qwen3's, of queries and of keys."""

    norm: Tensor
    qkv: Product
    head_norms: tuple[Tensor, Tensor] | None
    out: Product
    feed_forward_norm: Tensor
    gate_up: Product
    down: Product


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
                rows = layer.out(seen, rows)
                hidden = RMSNorm.apply(rows, layer.feed_forward_norm, self.eps)
                rows = layer.down(Gate.apply(layer.gate_up(hidden)), rows)
            return RMSNorm.apply(rows, self.norm, self.eps)

    def attention(
        self, rows: Tensor, layer: Layer, mask: Tensor, cos: Tensor, sin: Tensor
    ) -> Tensor:
        """Rows (B T, H) -> what each has seen (B T, A E), in front of the output projection."""
        hidden = RMSNorm.apply(rows, layer.norm, self.eps)
        qkv = layer.qkv(hidden).view(*cos.shape[:2], self.heads + 2 * self.keys, -1)
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
    """Whether a model has the shape that `FrozenLlama` computes, nothing in it trains but adapters,
    and its weights are plain: not quantised or sharded, and of one dtype."""
    frozen = [p for name, p in model.named_parameters() if ".lora_" not in name]
    if type(model) not in KNOWN or any(parameter.requires_grad for parameter in frozen):
        return False
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if type(model) is MistralForCausalLM else None
    plain = config.hidden_act == "silu" and kinds == {"full_attention"} and window is None
    plain &= type(model.lm_head) is nn.Linear
    names = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
    for layer in model.model.layers:
        plain &= {name for name, _ in layer.named_children()} == names
        plain &= all(map(is_plain, linear_layers(layer)))
    return plain and len({parameter.dtype for parameter in frozen}) == 1


def is_plain(linear: nn.Module) -> bool:
    """Whether it is a linear layer, or one with an adapter that only adds its product."""
    if type(linear) is not LoraLinear:
        return type(linear) is nn.Linear
    names = linear.active_adapters
    changed = linear.merged or linear.disable_adapters or linear.fan_in_fan_out
    if type(linear.base_layer) is not nn.Linear or changed or len(names) != 1:
        return False
    (name,) = names
    dropout = not isinstance(linear.lora_dropout[name], nn.Identity)
    return not (dropout or linear.lora_bias[name] or linear.lora_variant)


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
    return Layer(
        norm=layer.input_layernorm.weight,
        qkv=Product([query, key, value]),
        head_norms=head_norms,
        out=Product([out]),
        feed_forward_norm=layer.post_attention_layernorm.weight,
        gate_up=Product([gate, up]),
        down=Product([down]),
    )


def adapter(linear: nn.Module) -> Adapter:
    if type(linear) is nn.Linear:
        nothing = linear.weight.new_empty
        return Adapter(nothing(0, linear.in_features), nothing(linear.out_features, 0), 1.0)
    (name,) = linear.active_adapters
    down, up = linear.lora_A[name].weight, linear.lora_B[name].weight
    return Adapter(down, up, linear.scaling[name])


def short_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Query (B, A, T, E), key and value (B, K, T, E), mask (B K, A / K T, T) -> (B, A, T, E); a
    key's heads side by side are one taller matrix."""
    key, value = key.flatten(0, 1), value.flatten(0, 1)
    grouped = query.view(len(key), -1, query.shape[-1])
    scores = torch.baddbmm(mask, grouped, key.mT, alpha=query.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(dim=-1), value).view(query.shape)


class AdaptedProduct(Function):
    """start (R, O), (O,) or None + hidden (R, I) by a frozen weight (O, I), and by its adapters'
    factors, down (r, I) and up (O, r)."""

    @staticmethod
    def forward(
        ctx: Any, start: Tensor | None, hidden: Tensor, weight: Tensor, down: Tensor, up: Tensor
    ) -> Tensor:
        low = hidden @ down.t()
        ctx.save_for_backward(hidden, low, weight, down, up)
        if start is None:
            return F.linear(hidden, weight).addmm_(low, up.t())
        return torch.addmm(start, hidden, weight.t()).addmm_(low, up.t())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, low, weight, down, up = ctx.saved_tensors
        of_start, of_hidden, *_ = ctx.needs_input_grad
        of_low = gradient @ up
        return (
            gradient if of_start else None,
            (gradient @ weight).addmm_(of_low, down) if of_hidden else None,
            None,
            of_low.t() @ hidden,
            gradient.t() @ low,
        )


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

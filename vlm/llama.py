"""A Llama (Touvron et al. 2023) that only infers, on a CPU: what SmolLM2 is decoded by.

The numbers are those of transformers' class, in fewer and larger operators: query, key and value
are one matrix, gate and up another, and keys and values lie in a buffer that grows seldom.
Dimensions that rotary embeddings turn together (Su et al. 2021) are side by side, so that a turn is
one complex product. A single token goes through all layers in one call.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.blocks import Step
from vlm.chat_template import ChatTemplate

Linear = Callable[[Tensor], Tensor]
"""Rows (..., I) -> (..., O), float32."""

ROOM = 128
"""Positions by which the buffer of keys and values grows, at least."""


@dataclass(frozen=True)
class Shape:
    """Numbers of a model: layers, heads A, key-value heads K, features of a head E; what a norm
    adds to the mean square, positions it was made for, the tokens that end an answer, and how far
    rotary embeddings turn from one position to the next (E / 2)."""

    layers: int
    heads: int
    kv_heads: int
    head_width: int
    eps: float
    max_length: int | None
    ends: list[int]
    turns: list[float]


@dataclass(frozen=True)
class Layer:
    """What one layer multiplies by: matrices, and the weights (H,) of the norms in front of
    attention and feed-forward."""

    query_key_value: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    norm: Tensor
    feed_forward_norm: Tensor


@dataclass(frozen=True)
class Network:
    """All of a model: embeddings of token ids (..., T) -> (..., T, H), layers, the last norm (H,),
    the output head, and what takes a single token through all layers."""

    embed: Callable[[Tensor], Tensor]
    layers: list[Layer]
    norm: Tensor
    head: Linear
    step: Step


class KeysValues:
    """Keys and values of what came before, for B rows of `length` S tokens each."""

    def __init__(self, shape: Shape) -> None:
        self.length = 0
        self.buffer = torch.empty(shape.layers, 0, 0, 2 * shape.kv_heads, shape.head_width)

    def make_room(self, rows: int, length: int) -> None:
        """For so many tokens more: the buffer is (layers, B, S + length or more, 2K, E), float32,
        keys first."""
        layers, _, room, *of_token = self.buffer.shape
        end = self.length + length
        if self.length and end <= room:
            return
        larger = torch.empty(layers, rows, end + max(ROOM, end // 2), *of_token)
        if self.length:
            larger[:, :, : self.length] = self.buffer[:, :, : self.length]
        self.buffer = larger

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keeps the rows of these numbers (R,), of which one may come several times."""
        self.buffer = self.buffer[:, rows]


class Llama(nn.Module):
    """A frozen language model on a CPU with its tokenizer, asked in the words of a chat template;
    it stands for a `LanguageModel` wherever nothing trains."""

    stateful = False
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, shape: Shape, network: Network, template: ChatTemplate) -> None:
        super().__init__()
        self.shape, self.network = shape, network
        self.template, self.tokenizer = template, template.tokenizer
        self.embed = network.embed
        self.width: int = len(network.norm)
        self.max_length = shape.max_length
        self.turns = torch.tensor(shape.turns)
        # Values are not turned, and queries also scaled.
        kinds = torch.tensor([shape.heads, shape.kv_heads, shape.kv_heads])
        scale = torch.tensor([shape.head_width**-0.5, 1.0, 1.0])
        self.scale = scale.repeat_interleave(kinds)[:, None]
        self.is_turned = torch.tensor([True, True, False]).repeat_interleave(kinds)[:, None]

    def end_ids(self) -> set[int]:
        """Tokens that end an answer."""
        return set(self.shape.ends)

    def new_cache(self) -> KeysValues:
        """A cache that nothing is in."""
        return KeysValues(self.shape)

    def forward(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KeysValues | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """As `LanguageModel.forward`, but that a mask is (B, S)."""
        cache = self.new_cache() if cache is None else cache
        rows, length, _ = embeddings.shape
        if attention_mask is None:
            attention_mask = torch.ones(rows, cache.length + length, dtype=torch.long)
        if position_ids is None:
            position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -length:]
        mask = mask_of(attention_mask, length)
        cache.make_room(rows, length)
        hidden = embeddings.float().clone()
        angles = position_ids[:, :, None, None] * self.turns
        if rows == length == 1 and mask is None:
            turn = torch.stack([angles.cos(), angles.sin()], dim=-1)
            self.network.step(hidden, turn, cache.buffer, cache.length)
        else:
            self._all_layers(hidden, angles, mask, cache)
        cache.length += length
        last = normed(hidden[:, -logits_to_keep:], self.network.norm, self.shape.eps)
        return self.network.head(last)

    def _all_layers(
        self, hidden: Tensor, angles: Tensor, mask: Tensor | None, cache: KeysValues
    ) -> None:
        """Changes hidden states (B, T, H) in place; angles (B, T, 1, E / 2); see `mask_of`."""
        shape, (rows, length, _) = self.shape, hidden.shape
        end = cache.length + length
        size = self.scale.expand(rows, length, -1, angles.shape[-1])
        turn = torch.polar(size, torch.where(self.is_turned, angles, 0.0))
        for number, layer in enumerate(self.network.layers):
            mixed = layer.query_key_value(normed(hidden, layer.norm, shape.eps))
            mixed = mixed.view(rows, length, -1, shape.head_width)
            torch.view_as_complex(mixed.view(rows, length, -1, angles.shape[-1], 2)).mul_(turn)
            cache.buffer[number, :, cache.length : end] = mixed[:, :, shape.heads :]
            past = cache.buffer[number, :, :end].transpose(1, 2)
            seen = F.scaled_dot_product_attention(
                mixed[:, :, : shape.heads].transpose(1, 2),
                past[:, : shape.kv_heads],
                past[:, shape.kv_heads :],
                attn_mask=mask,
                is_causal=mask is None and length > 1,
                scale=1.0,
                enable_gqa=True,
            )
            hidden += layer.out(seen.transpose(1, 2).reshape(rows, length, -1))
            both = layer.gate_up(normed(hidden, layer.feed_forward_norm, shape.eps))
            gate, up = both.chunk(2, dim=-1)
            hidden += layer.down(F.silu(gate).mul_(up))


def normed(vectors: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm (Zhang & Sennrich 2019) of vectors (..., H)."""
    # PyTorch's own is a dozen operators on a CPU.
    square = torch.linalg.vecdot(vectors, vectors)[..., None]
    return (vectors * torch.rsqrt_(square.div_(vectors.shape[-1]).add_(eps))).mul_(weight)


def mask_of(attention_mask: Tensor, length: int) -> Tensor | None:
    """What the last T of S tokens, with 0 in the mask (B, S) for padding, see: bool (B, 1, T, S),
    True where row t may look at column s; None where it is all of them, or if T is S all but those
    behind it."""
    total = attention_mask.shape[1]
    padded = not bool(attention_mask.all())
    if not padded and length in (1, total):
        return None
    seen = torch.ones(length, total, dtype=torch.bool).tril(total - length)
    # Padding that saw nothing would have no softmax: it sees itself.
    own = torch.eye(total, dtype=torch.bool)[-length:]
    return (seen & (attention_mask[:, None, None] != 0)) | own

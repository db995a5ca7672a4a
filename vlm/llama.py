"""A Llama (Touvron et al. 2023) that only infers, on a CPU: what SmolLM2 is decoded by.

The numbers are those of transformers' class, but for what rounding to 16 bits changes. Padding is
left out: each row has keys and values of its own, and all rows' tokens go through the layers as
one list. Dimensions that rotary embeddings turn together (Su et al. 2021) are side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlm.blocks import BLOCK, BlockLinear, Layers
from vlm.chat_template import ChatTemplate


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
class Network:
    """What a model multiplies by: embeddings of token ids (..., T) -> (..., T, H), all layers, the
    last norm (H,) and the output head."""

    embed: Callable[[Tensor], Tensor]
    layers: Layers
    norm: Tensor
    head: BlockLinear


@dataclass
class Row:
    """Keys (layers, K, E, room) and values (layers, K, room, E), float32, of `length` tokens."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def with_room(self, count: int) -> "Row":
        """The same, of its own, with room for so many tokens more."""
        layers, heads, width, _ = self.keys.shape
        end = self.length + count
        # Half as much again, so that it seldom grows; blocks of an odd number, since keys so many
        # bytes apart would else share places in the CPU's cache.
        room = (-(-(end + end // 2) // BLOCK) | 1) * BLOCK
        keys = torch.zeros(layers, heads, width, room)
        values = torch.zeros(layers, heads, room, width)
        keys[..., : self.length] = self.keys[..., : self.length]
        values[:, :, : self.length] = self.values[:, :, : self.length]
        return Row(keys, values, self.length)


class KeysValues:
    """Keys and values of what came before, row by row."""

    def __init__(self, shape: Shape) -> None:
        layers, heads, width = shape.layers, shape.kv_heads, shape.head_width
        self.empty = Row(torch.empty(layers, heads, width, 0), torch.empty(layers, heads, 0, width))
        self.rows: list[Row] = []

    def extend(self, counts: list[int]) -> list[tuple[int, int, Tensor, Tensor]]:
        """Makes room for so many tokens more of each row: as `Layers` takes it."""
        self.rows = self.rows or [self.empty] * len(counts)
        told = []
        for number, (row, count) in enumerate(zip(self.rows, counts, strict=True)):
            if row.length + count > row.keys.shape[-1]:
                row = self.rows[number] = row.with_room(count)
            told.append((count, row.length, row.keys, row.values))
            row.length += count
        return told

    def reorder_cache(self, rows: Tensor) -> None:
        """Keeps the rows of these numbers (R,), of which one may come several times."""
        numbers = rows.tolist()
        # One that comes again is a copy.
        self.rows = [
            self.rows[number].with_room(0) if number in numbers[:place] else self.rows[number]
            for place, number in enumerate(numbers)
        ]


class Llama(nn.Module):
    """A frozen language model on a CPU with its tokenizer, asked in the words of a chat template;
    it stands for a `LanguageModel` wherever nothing trains."""

    keeps_all = True
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
        cache: KeysValues | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """As `LanguageModel.forward`, but that a mask is (B, S); logits at padding are zeros."""
        cache = self.new_cache() if cache is None else cache
        count, length, _ = embeddings.shape
        new = torch.ones(count, length, dtype=torch.bool)
        if attention_mask is not None:
            new = attention_mask[:, -length:] != 0
        rows = cache.extend(new.sum(dim=1).tolist())
        positions = torch.cat([torch.arange(at, at + more) for more, at, *_ in rows])
        angles = positions[:, None] * self.turns
        hidden = embeddings[new].float()
        self.network.layers(hidden, torch.stack([angles.cos(), angles.sin()], dim=-1), rows)
        kept = torch.zeros_like(new)
        kept[:, -logits_to_keep:] = True
        last = normed(hidden[kept[new]], self.network.norm, self.shape.eps)
        logits = self.network.head(last)
        if len(last) == kept.sum():
            return logits.view(count, -1, logits.shape[-1])
        padded = torch.zeros(*new[:, -logits_to_keep:].shape, logits.shape[-1])
        padded[new[:, -logits_to_keep:]] = logits
        return padded


def normed(vectors: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm (Zhang & Sennrich 2019) of vectors (..., H)."""
    return vectors * torch.rsqrt(vectors.square().mean(dim=-1, keepdim=True) + eps) * weight

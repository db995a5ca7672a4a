"""A Llama's GGUF file -> `Llama`, its weights in the blocks that they are published in.

The file is rewritten once as safetensors, which open without reading the vocabulary of the other,
and with the blocks in the order in which they are multiplied.
"""

import json
from ctypes import CDLL
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlm.blocks import BLOCK, Q4_1, Q8_0, BlockLinear, Layers, Matrix, grouped, rows_of
from vlm.chat_template import ChatTemplate
from vlm.config import LoraConfig
from vlm.llama import Llama, Network, Shape

if TYPE_CHECKING:
    from transformers import LlamaConfig

PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's names of a layer's matrices, and transformers'."""

TABLE = "token_embd.weight"
"""Embeddings, and the output head."""

JOINED = (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))
"""Matrices that read the same."""

LORA = "language.model.model.layers.{}.{}.lora_{}.default.weight"
"""A checkpoint's name of one side of an adapter."""


def write_blocks(gguf: Path, config: "LlamaConfig", file: Path) -> None:
    """Rewrites the GGUF file of a model of this config, whose head is its embeddings and whose
    positions turn as in Llama 2."""
    # Slow to import, and needed once.
    from gguf import GGUFReader

    even = torch.arange(0, config.head_dim, 2) / config.head_dim
    shape = Shape(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_width=config.head_dim,
        eps=config.rms_norm_eps,
        max_length=config.max_position_embeddings,
        ends=[config.eos_token_id],
        turns=(1 / config.rope_parameters["rope_theta"] ** even).tolist(),
    )
    tensors = {}
    for each in GGUFReader(gguf).tensors:
        data = torch.from_numpy(each.data.copy())
        if data.dtype == torch.uint8:
            data = grouped(data, Q8_0 if each.name == TABLE else Q4_1)
        tensors[each.name] = data
    save_file(tensors, file, metadata={"shape": json.dumps(asdict(shape))})


def read_blocks(
    file: Path, code: CDLL, template: ChatTemplate, adapters: dict[str, Tensor], lora: LoraConfig
) -> Llama | None:
    """The model that was written, its weights memory-mapped, with the adapters of a checkpoint by
    their names there; None if they are not those of all matrices."""
    with safe_open(file, framework="pt") as opened:
        shape = Shape(**json.loads(opened.metadata()["shape"]))
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    wanted = {}
    for number in range(shape.layers):
        for name, part in PARTS.items():
            outputs, size = tensors[f"blk.{number}.{name}.weight"].shape
            wanted[LORA.format(number, part, "A")] = (lora.rank, size // Q4_1 * BLOCK)
            wanted[LORA.format(number, part, "B")] = (outputs, lora.rank)
    if {name: tuple(tensor.shape) for name, tensor in adapters.items()} != wanted:
        return None

    def matrix(number: int, name: str) -> Matrix:
        blocks = tensors[f"blk.{number}.{name}.weight"]
        down, up = (adapters[LORA.format(number, PARTS[name], side)].float() for side in "AB")
        up = up * (lora.alpha / lora.rank)
        if name in ("attn_q", "attn_k"):
            up = side_by_side(up, shape.head_width)
        return Matrix(blocks, Q4_1, padded(down.T, 1), padded(up.T, 0))

    layers = []
    for number in range(shape.layers):
        matrices = [BlockLinear(code, *(matrix(number, n) for n in names)) for names in JOINED]
        norms = [tensors[f"blk.{number}.{name}_norm.weight"] for name in ("attn", "ffn")]
        layers.append((matrices, norms))
    table = tensors[TABLE]
    network = Network(
        embed=lambda ids: rows_of(table, ids),
        layers=Layers(code, layers, shape.heads, shape.kv_heads, shape.head_width, shape.eps),
        norm=tensors["output_norm.weight"],
        head=BlockLinear(code, Matrix(table, Q8_0)),
    )
    return Llama(shape, network, template)


def padded(weight: Tensor, dim: int) -> Tensor:
    """An adapter's weight, its rank brought to a multiple of 16 by zeros."""
    size = list(weight.shape)
    size[dim] = -size[dim] % 16
    return torch.cat([weight, weight.new_zeros(size)], dim).contiguous()


def side_by_side(rows: Tensor, width: int) -> Tensor:
    """Rows of heads of this width with those next to each other that are turned together, as GGUF
    has them: n and n + width / 2 of transformers' order."""
    return rows.unflatten(0, (-1, 2, width // 2)).transpose(1, 2).flatten(0, 2)

"""Weights in ggml's blocks, multiplied as they are: `blocks.c`, compiled once on the machine that
runs it and kept in the cache. Without a C compiler there is none of this, see `library`."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("blocks.c")
FLAGS = (
    *("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    # Sums in any order; not -ffast-math, which changes arithmetic in the whole process.
    *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"),
)
Q4_1, Q8_0 = 20, 34
"""Bytes of a block of 32 weights, by ggml's names."""

BITS = {Q4_1: 4, Q8_0: 8}

BLOCK = 32
"""Weights of a block."""

GROUP = 32
"""Outputs whose weights stand together."""


@dataclass
class Matrix:
    """A weight in blocks (O, bytes), uint8, of so many bytes each, as `grouped` has them, and
    perhaps the adapter on it (LoRA): `down` (I, R) and `up` (R, O), float32, R a multiple of 16."""

    blocks: Tensor
    block_bytes: int
    down: Tensor | None = None
    up: Tensor | None = None


class CPart(Structure):
    _fields_ = [(name, c_int64) for name in ("bits", "out", "rank")] + [
        (name, c_void_p) for name in ("weight", "down", "up")
    ]


class CLinear(Structure):
    _fields_ = [(name, c_int64) for name in ("in_", "out", "rank", "count")] + [
        ("parts", POINTER(CPart))
    ]


class CLayer(Structure):
    _fields_ = [(name, CLinear) for name in ("query_key_value", "project", "gate_up", "down")] + [
        ("norm", c_void_p * 2)
    ]


class CModel(Structure):
    _fields_ = [(name, c_int64) for name in ("layers", "heads", "kv_heads", "width", "hidden")] + [
        ("eps", c_float),
        ("layer", POINTER(CLayer)),
    ]


class CRow(Structure):
    _fields_ = [(name, c_int64) for name in ("count", "length", "room")] + [
        (name, c_void_p) for name in ("keys", "values")
    ]


@functools.cache
def library(cache: Path) -> ctypes.CDLL | None:
    """`blocks.c`, compiled and loaded; None where there is no C compiler that takes it."""
    command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS]
    made_of = f"{command} {platform.machine()} {cpu_flags()} {SOURCE.read_text()}"
    file = cache / f"blocks-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    try:
        if not file.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                made = Path(scratch, file.name)
                command += [str(SOURCE), "-o", str(made), "-lm"]
                subprocess.run(command, check=True, capture_output=True, timeout=60)
                made.replace(file)
        found = ctypes.CDLL(str(file))
    except (OSError, subprocess.SubprocessError):
        return None
    found.linear.argtypes = [c_void_p, c_void_p, c_int64, POINTER(CLinear)]
    found.forward.argtypes = [c_void_p, c_void_p, POINTER(CRow), c_int64, POINTER(CModel)]
    return found


def cpu_flags() -> str:
    """What this CPU can do: a cache may be shared by machines, and code of another kills."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()


class BlockLinear:
    """Matrices that read the same rows, side by side: rows (..., I) -> (..., O), float32."""

    def __init__(self, code: ctypes.CDLL, *matrices: Matrix) -> None:
        self.code, self.matrices = code, matrices
        parts = (CPart * len(matrices))()
        for part, matrix in zip(parts, matrices, strict=True):
            out, count = matrix.blocks.shape
            self.inputs = count // matrix.block_bytes * BLOCK
            part.bits, part.out = BITS[matrix.block_bytes], out
            part.weight = matrix.blocks.data_ptr()
            if matrix.down is not None:
                part.rank = len(matrix.up)
                part.down, part.up = matrix.down.data_ptr(), matrix.up.data_ptr()
        self.outputs = sum(part.out for part in parts)
        rank = sum(part.rank for part in parts)
        self.c = CLinear(self.inputs, self.outputs, rank, len(parts), parts)

    def __call__(self, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        result = torch.empty(*rows.shape[:-1], self.outputs)
        count = rows.numel() // self.inputs
        self.code.linear(result.data_ptr(), rows.data_ptr(), count, ctypes.byref(self.c))
        return result


class Layers:
    """All layers of a Llama, each as its four matrices (query, key and value; out; gate and up;
    down) and the two norms (H,), float32."""

    def __init__(
        self,
        code: ctypes.CDLL,
        layers: list[tuple[list[BlockLinear], list[Tensor]]],
        heads: int,
        kv_heads: int,
        width: int,
        eps: float,
    ) -> None:
        self.code, self.layers = code, layers
        told = (CLayer * len(layers))()
        for each, (matrices, norms) in zip(told, layers, strict=True):
            each.query_key_value, each.project, each.gate_up, each.down = (m.c for m in matrices)
            each.norm[:] = [norm.data_ptr() for norm in norms]
        hidden = len(layers[0][1][0])
        self.c = CModel(len(layers), heads, kv_heads, width, hidden, eps, told)

    def __call__(
        self, hidden: Tensor, turn: Tensor, rows: Sequence[tuple[int, int, Tensor, Tensor]]
    ) -> None:
        """Changes hidden states (N, H), float32, of tokens in place, those of one row after those
        of another: how many there are, how many came before, and the row's keys (layers, K, E,
        room) and values (layers, K, room, E), to which theirs are added; a room is a multiple of 32
        and zeros at first. `turn` (N, E / 2, 2) has cosine and sine for each pair of a head's
        features."""
        told = (CRow * len(rows))()
        for row, (count, length, keys, values) in zip(told, rows, strict=True):
            row.count, row.length, row.room = count, length, keys.shape[-1]
            row.keys, row.values = keys.data_ptr(), values.data_ptr()
        at = hidden.data_ptr(), turn.data_ptr()
        self.code.forward(*at, told, len(rows), ctypes.byref(self.c))


def grouped(blocks: Tensor, block_bytes: int) -> Tensor:
    """A matrix in ggml's blocks (O, bytes), O a multiple of `GROUP` -> as `blocks.c` reads it."""
    outputs, row = blocks.shape
    # (groups, blocks of a row, outputs, bytes)
    each = blocks.view(outputs // GROUP, GROUP, -1, block_bytes).transpose(1, 2)
    values = each[..., -BITS[block_bytes] * BLOCK // 8 :]
    scales = each[..., : block_bytes - values.shape[-1]].unflatten(-1, (-1, 2)).transpose(2, 3)
    if block_bytes == Q4_1:
        # Values 0..15 and 16..31 share bytes; here it is four that are two apart, in two bytes.
        values = torch.cat([values & 15, values >> 4], dim=-1).unflatten(-1, (4, 4, 2))
        low, high = (values[..., j, :] | values[..., j + 1, :] << 4 for j in (0, 2))
        values = torch.stack([low, high], dim=-1)
    else:
        values = values.unflatten(-1, (8, 2, 2)).transpose(-1, -2)
    # (groups, blocks of a row, pieces, outputs, two weights, two bytes)
    values = values.transpose(2, 3)
    return torch.cat([scales.flatten(2), values.flatten(2)], dim=-1).reshape(outputs, row)


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """Rows (..., I), float32, of a `grouped` matrix in blocks of 8 bits (V, bytes) by their
    numbers."""
    groups = table.view(len(table) // GROUP, -1, GROUP * Q8_0)[ids.flatten() // GROUP]
    which = torch.arange(ids.numel()), slice(None), ids.flatten() % GROUP
    scale = groups[..., : 2 * GROUP].unflatten(-1, (GROUP, 2))[which]
    values = groups[..., 2 * GROUP :].unflatten(-1, (8, GROUP, 2, 2)).transpose(2, 3)[which]
    values = values.transpose(-1, -2).contiguous().view(torch.int8).flatten(2)
    return (values * scale.contiguous().view(torch.float16).float()).view(*ids.shape, -1)

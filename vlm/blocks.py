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
from contextlib import suppress
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
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

MANY = 128
"""Rows above which PyTorch's product is faster, and to dequantise for it is nothing beside it."""


@dataclass
class Matrix:
    """A weight in blocks (O, bytes), uint8, of so many bytes each, and perhaps the adapter on it
    (LoRA): `down` (R, I) and `up` (O, R), float32; O and R are multiples of 4 and 8."""

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
    found.dense.argtypes = [c_void_p, POINTER(CLinear)]
    found.step.argtypes = [c_void_p, POINTER(CModel), c_void_p, c_void_p, c_int64, c_int64]
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
                part.rank = len(matrix.down)
                part.down, part.up = matrix.down.data_ptr(), matrix.up.data_ptr()
        self.outputs = sum(part.out for part in parts)
        rank = sum(part.rank for part in parts)
        self.c = CLinear(self.inputs, self.outputs, rank, len(parts), parts)

    def __call__(self, rows: Tensor) -> Tensor:
        count = rows.numel() // self.inputs
        if count > MANY:
            return F.linear(rows, self.dense())
        rows = rows.contiguous()
        result = torch.empty(*rows.shape[:-1], self.outputs)
        self.code.linear(result.data_ptr(), rows.data_ptr(), count, ctypes.byref(self.c))
        return result

    def dense(self) -> Tensor:
        """The weights (O, I), float32, adapters merged."""
        weight = torch.empty(self.outputs, self.inputs)
        self.code.dense(weight.data_ptr(), ctypes.byref(self.c))
        sizes = [len(matrix.blocks) for matrix in self.matrices]
        for matrix, part in zip(self.matrices, weight.split(sizes), strict=True):
            if matrix.down is not None:
                part.addmm_(matrix.up, matrix.down)
        return weight


class Step:
    """One token of one row through all layers, each as its four matrices (query, key and value;
    out; gate and up; down) and the two norms (H,), float32."""

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

    def __call__(self, hidden: Tensor, turn: Tensor, buffer: Tensor, length: int) -> None:
        """Changes the hidden state (1, 1, H) in place and puts the token's keys and values behind
        the `length` tokens in a buffer (layers, 1, room, 2K, E); `turn` has cosine and sine for
        each pair of a head's features (..., E / 2, 2)."""
        where = (hidden.data_ptr(), ctypes.byref(self.c), turn.data_ptr(), buffer.data_ptr())
        self.code.step(*where, buffer[0].numel(), length)


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """Rows (..., I), float32, of a matrix in blocks of 8 bits (V, bytes) by their numbers."""
    blocks = table[ids].unflatten(-1, (-1, Q8_0))
    scale = blocks[..., :2].contiguous().view(torch.float16).float()
    return (blocks[..., 2:].contiguous().view(torch.int8) * scale).flatten(-2)

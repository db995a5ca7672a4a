"""What is measured of each way to train."""

import os
import resource
import sys
from dataclasses import dataclass

import torch

from train.flops import ModelFlops


@dataclass(frozen=True)
class Measured:
    """A way to train: captions and tokens (of text and images, without padding) a second by the
    median step, `peak_memory`, mean loss over all steps, warm-up included, what frozen weights are
    computed in, and the share of the device's peak where that is known."""

    captions: float
    tokens: float
    memory: int
    loss: float
    precision: str
    mfu: float | None


@dataclass(frozen=True)
class Filled:
    """The filling of the feature cache: photos a second, `peak_memory`, and what a training step
    costs where the tower runs in it."""

    photos: float
    memory: int
    flops: ModelFlops


def peak_memory() -> int:
    """Most bytes that this process had: allocated on CUDA, else its resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    # macOS counts bytes, Linux KiB.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def workers() -> int:
    """Processes that prepare batches; on a CPU they would only take turns with the training."""
    return min(12, os.cpu_count() or 1) if torch.cuda.is_available() else 0


def machine() -> str:
    on_gpu = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} CPU threads"
    return f"{where}, torch {torch.__version__}"

"""Precision: what a CPU computes fastest in. The CPU says so and no measurement: the same command
computes the same each time."""

import torch


def cpu_dtype() -> torch.dtype:
    """bfloat16 where this CPU has AMX tiles, whose matrix products are several times as fast as
    float32's; float32 elsewhere: without instructions for it, bfloat16 is tens of times slower."""
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32

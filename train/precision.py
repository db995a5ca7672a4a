"""Precision: what a CPU computes fastest in. The CPU says so and no measurement: the same command
computes the same each time."""

import torch


def cpu_dtype() -> torch.dtype:
    """bfloat16 where this CPU has instructions for it, AMX's or AVX-512's, whose matrix products
    are several times, or twice, as fast as float32's; float32 elsewhere: without, bfloat16 is tens
    of times slower."""
    has = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if has else torch.float32

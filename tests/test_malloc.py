"""Freed memory is used again without asking the system for it."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from train.malloc import keep_freed_memory

if {keep}:
    keep_freed_memory()
for _ in range(24):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Page faults of eight tensors of 64 MiB, each freed before the next."""
    code = FAULTS.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_tensor_takes_the_memory_of_the_one_before() -> None:
    # A fault for 4 KiB, or for 2 MiB where the system gives huge pages.
    assert faults(keep=True) < 8 < 8 * 32 <= faults(keep=False)

"""Memory that is freed is kept for the next tensor, on Linux with glibc.

glibc hands large blocks back to the system as soon as they are freed, and the next tensor of that
size takes them again, with a page fault for every 4 KiB.
"""

import ctypes
import platform

M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
"""Parameters of mallopt(3)."""

LARGEST = 2**31 - 1
PAD = 2**28
"""Bytes by which the heap grows at a time, at least."""


def keep_freed_memory() -> None:
    """Sets up this process's malloc; elsewhere than on glibc it does nothing."""
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    # Blocks that the system gave on their own are those that go back at once: there are none.
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, LARGEST)
    mallopt(M_TOP_PAD, PAD)

"""Garbage collection, which importing large libraries must not wait for."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Else the interpreter would look at all that was imported once more as it ends.
atexit.register(gc.freeze)


@contextmanager
def uncollected() -> Iterator[None]:
    """Within, no garbage is looked for: importing makes none, and to look takes a fourth of its
    time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

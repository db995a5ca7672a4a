"""Processes that a launcher started together, such as `torchrun`, leave one another."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def leaving_group() -> Iterator[None]:
    """Ends torch's process group, if there is one by then. Not after an error: others may still
    wait for what this process would have sent."""
    try:
        yield
    finally:
        # Not imported here: most commands have no need of torch.
        distributed = sys.modules.get("torch.distributed")
        grouped = distributed and distributed.is_available() and distributed.is_initialized()
        if grouped:
            # gloo's threads need the interpreter's lock to free the tensors of the last exchange.
            # Who then destroys the group holds it and waits for them, for ever, and an interpreter
            # that ends is aborted by them (torch 2.13): now they have it to themselves.
            time.sleep(0.5)
    if grouped:
        distributed.destroy_process_group()

"""What holds for all tests."""

from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import settings

# Tiny models gain nothing from threads, and those of two test processes would wait for each other.
torch.set_num_threads(1)

# Property tests draw the same cases each time, and take as long as the machine needs.
settings.register_profile("vlm", deadline=None, derandomize=True)
settings.load_profile("vlm")


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """A process has one precision; here each test has."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)

"""What holds for all tests."""

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState
from hypothesis import settings

# Property tests draw the same cases each time, and take as long as the machine needs.
settings.register_profile("vlm", deadline=None, derandomize=True)
settings.load_profile("vlm")


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """A process has one precision; here each test has."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)

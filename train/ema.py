"""A running average of the trained weights (Polyak & Juditsky 1992), which is validated and kept in
their place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Begins with the weights as they are; each step keeps `decay` of it. None averages nothing."""

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.decay = decay or 0.0
        averaged = model.named_parameters() if decay else ()
        self.weights = {name: weight for name, weight in averaged if weight.requires_grad}
        self.tensors = {name: weight.detach().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the weights."""
        for name, average in self.tensors.items():
            average.lerp_(self.weights[name], 1 - self.decay)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Puts back an average; none at all begins with the weights as they are now."""
        copy(tensors or self.weights, self.tensors)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model has the average for its weights."""
        kept = {name: weight.detach().clone() for name, weight in self.weights.items()}
        try:
            copy(self.tensors, self.weights)
            yield
        finally:
            copy(kept, self.weights)


@torch.no_grad()
def copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Values into tensors of the same names."""
    for name, tensor in target.items():
        tensor.copy_(source[name])

"""What every vision tower is to the rest of the model."""

from torch import nn

from vlm.preprocess import Preprocessing


class VisionTower(nn.Module):
    """A frozen vision model that gives patch tokens.

    Attributes:
        preprocessing: the `Preprocessing` its images need.
        width: D, the features of one patch token.
        grid: (rows, columns) of the patches.
        num_tokens: N, the tokens of one image.
    """

    preprocessing: Preprocessing
    width: int
    grid: tuple[int, int]
    num_tokens: int

    def train(self, mode: bool = True) -> "VisionTower":
        """Stays in eval mode whatever the parent's mode: dropout or batch statistics in a frozen
        tower would be noise that no gradient can answer to."""
        return super().train(False)

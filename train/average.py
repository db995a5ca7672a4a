"""`vlm average`: the mean of checkpoints of one lineage (Wortsman et al. 2022, "Model soups").

Stages that each teach something else undo a part of what came before. The mean of the weights
before and after such a stage often keeps more of both than either.
"""

from pathlib import Path

import torch

import vlm
from vlm.checkpoint import read
from vlm.errors import CheckpointError


def average(checkpoints: list[str]) -> "vlm.VisionLanguageModel":
    """A model whose trained tensors are the means of those of several, in float32.

    Args:
        checkpoints: folders, at least two, of the same parts and the same trained tensors.

    Raises:
        CheckpointError: fewer than two, or checkpoints that are not alike.
    """
    if len(checkpoints) < 2:
        raise CheckpointError("a mean needs at least two checkpoints")
    first, config = checkpoints[0], read(checkpoints[0])[0]
    for other in checkpoints[1:]:
        if read(other)[0] != config:
            raise CheckpointError(f"{other} has other parts or settings than {first}")
    result = vlm.load(first, device="cpu", dtype=torch.float32)
    state = result.state_dict()
    sums = {name: state[name].double() for name in result.trained}
    for other in checkpoints[1:]:
        model = vlm.load(other, device="cpu", dtype=torch.float32)
        if model.trained != result.trained:
            raise CheckpointError(f"{other} has other trained tensors than {first}")
        own = model.state_dict()
        for name, total in sums.items():
            total += own[name]
    means = {name: (total / len(checkpoints)).float() for name, total in sums.items()}
    result.load_state_dict(means, strict=False)
    return result


def main(output: Path, checkpoints: list[str]) -> None:
    """Average the trained tensors of checkpoints.

    Args:
        output: folder of the new checkpoint.
        checkpoints: of the same parts, such as those of a stage and of the one before it; one that
            is given twice counts twice.
    """
    average(checkpoints).save(output)

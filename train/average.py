"""`vlm average`: the mean of checkpoints of one lineage (Wortsman et al. 2022, "Model soups").

Stages that each teach something else undo a part of what came before. The mean of the weights
before and after such a stage often keeps more of both than either.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import vlm
from vlm.checkpoint import read
from vlm.errors import CheckpointError


def average(checkpoints: list[str]) -> "vlm.VisionLanguageModel":
    """A model whose trained tensors are the means of those of several, in float32. Adapters that
    only some have are the means of theirs.

    Args:
        checkpoints: folders, at least two, of the same parts and the same trained tensors, adapters
            aside.

    Raises:
        CheckpointError: fewer than two, or checkpoints that are not alike.
    """
    if len(checkpoints) < 2:
        raise CheckpointError("a mean needs at least two checkpoints")
    configs = {checkpoint: read(checkpoint)[0] for checkpoint in checkpoints}
    adapted = [name for name, config in configs.items() if config.language.lora is not None]
    first = (adapted or checkpoints)[0]
    for other, config in configs.items():
        if other not in adapted:
            lora = configs[first].language.lora
            config = replace(config, language=replace(config.language, lora=lora))
        if config != configs[first]:
            raise CheckpointError(f"{other} has other parts or settings than {first}")
    result = vlm.load(first, device="cpu", dtype=torch.float32)
    shared = {name for name in result.trained if ".lora_" not in name}
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    for checkpoint in checkpoints:
        model = vlm.load(checkpoint, device="cpu", dtype=torch.float32)
        if model.trained != (result.trained if checkpoint in adapted else shared):
            raise CheckpointError(f"{checkpoint} has other trained tensors than {first}")
        counts.update(model.trained)
        own = model.state_dict()
        for name in model.trained:
            sums[name] = own[name].double() + sums.get(name, 0)
    means = {name: (total / counts[name]).float() for name, total in sums.items()}
    result.load_state_dict(means, strict=False)
    return result


def main(output: Path, checkpoints: list[str]) -> None:
    """Average the trained tensors of checkpoints.

    Args:
        output: folder of the new checkpoint.
        checkpoints: of the same parts, such as those of a stage and of the one before it; one that
            is given twice counts twice. Adapters that only some have are the means of theirs.
    """
    average(checkpoints).save(output)

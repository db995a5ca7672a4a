"""`vlm average`: the average of checkpoints of one lineage (Wortsman et al. 2022, "Model soups").

Stages that each teach something else undo a part of what came before. The average of the weights
before and after such a stage often keeps more of both than either.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from safetensors import safe_open
from torch import Tensor

import vlm
from vlm.checkpoint import read, require_new
from vlm.errors import CheckpointError
from vlm.files import disk


def average(checkpoints: list[str]) -> "vlm.VisionLanguageModel":
    """A model whose trained tensors are the averages of those of several, in float32. What only
    some have trained counts, in the others, as it came (Wortsman et al. 2022, "Robust fine-tuning
    of zero-shot models"); adapters that only some have are averaged over those."""
    if len(checkpoints) < 2:
        raise CheckpointError("an average needs at least two checkpoints")
    configs, names = {}, set()
    for checkpoint in checkpoints:
        configs[checkpoint], file = read(checkpoint)
        if file is None:
            raise CheckpointError(
                f"{checkpoint} is no checkpoint with trained tensors, here or on the hub: "
                "check its path"
            )
        with disk(f"cannot read {file}", CheckpointError), safe_open(file, "pt") as opened:
            names.update(opened.keys())
    adapted = [name for name, config in configs.items() if config.language.lora is not None]
    first = (adapted or checkpoints)[0]
    lora = configs[first].language.lora
    for other, config in configs.items():
        own = config.language.lora
        # Dropout is a matter of training alone.
        if own is None or lora == replace(own, dropout=lora.dropout):
            config = replace(config, language=replace(config.language, lora=lora))
        if config != configs[first]:
            raise CheckpointError(f"{other} has other parts or settings than {first}")
    if adapted and any(n.startswith("language.") and ".lora_" not in n for n in names):
        raise CheckpointError(f"{first} has adapters, others a language model that was trained")
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    # One at a time: there may be more of them than fit the memory.
    for checkpoint in checkpoints:
        own = vlm.load(checkpoint, device="cpu", dtype=torch.float32).state_dict()
        held = names & own.keys()
        counts.update(held)
        for name in held:
            sums[name] = own[name].double() + sums.get(name, 0)
    result = vlm.load(first, device="cpu", dtype=torch.float32)
    result.trained = names
    averages = {name: (total / counts[name]).float() for name, total in sums.items()}
    result.load_state_dict(averages, strict=False)
    return result


def average_checkpoints(output: Path, checkpoints: list[str]) -> None:
    """Average the trained tensors of checkpoints.

    Args:
        output: folder of the new checkpoint.
        checkpoints: of the same parts, such as those of a stage and of the one before it; one that
            is given twice counts twice. Adapters that only some have are averaged over those.

    Raises:
        CheckpointError: something is in the output folder, or the checkpoints have no average.
    """
    require_new(output)
    average(checkpoints).save(output)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    console.print(f"vlm chat PHOTO --model {output}: talks to it")

"""The folder that ships: weights in float16, parts by the names that every machine has."""

from dataclasses import replace
from pathlib import Path

import torch

from vlm.checkpoint import read, read_tensors, save
from vlm.hybrid_clip import hybrid_folder, load_hybrid, save_hybrid


def ship(runs: Path, into: Path) -> None:
    """Writes `clip/` and the model of the last stage, whose tower it then is."""
    clip = load_hybrid(hybrid_folder(str(runs / "clip")))
    trained = {name: clip.state_dict()[name].half() for name in clip.trained}
    config, file = read(runs / "rewards")
    config = replace(config, vision=replace(config.vision, source="embedded"))
    save(config, read_tensors(file), into, torch.float16)
    save_hybrid(clip.config, trained, into / "clip")

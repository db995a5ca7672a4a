"""The folder that ships: weights in float16, parts by the names that every machine has."""

from dataclasses import replace
from pathlib import Path

import torch

from vlm.checkpoint import read, read_tensors, save
from vlm.hybrid_clip import hybrid_folder, load_hybrid, save_hybrid


def ship_clip(runs: Path, into: Path) -> None:
    """Writes `clip/`, of the first stage."""
    clip = load_hybrid(hybrid_folder(str(runs / "clip")))
    state = clip.state_dict()
    save_hybrid(clip.config, {name: state[name].half() for name in clip.trained}, into / "clip")


def ship(runs: Path, into: Path) -> None:
    """Writes the model of the last stage, whose tower is the CLIP that ships, and that."""
    config, file = read(runs / "rewards")
    config = replace(config, vision=replace(config.vision, source="embedded"))
    save(config, read_tensors(file), into, torch.float16)
    ship_clip(runs, into)

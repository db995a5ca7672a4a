"""Checkpoint: a folder with the model's config and every tensor that was trained.

    vlm_config.json     the `ModelConfig`, naming the frozen parts and their revisions
    model.safetensors   projector, adapters, and whatever else was trained

The frozen parts themselves stay where their sources are.
"""

import dataclasses
import os
from collections.abc import Callable, Set
from difflib import get_close_matches
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vlm.config import ModelConfig, from_json, to_json
from vlm.errors import CheckpointError, ConfigError, WeightsError
from vlm.files import disk, replace_folder
from vlm.sources import commit_of, local_source, quiet_loading, reading

CONFIG_FILE = "vlm_config.json"
CLIP_CONFIG_FILE = "clip_config.json"
TENSOR_FILE = "model.safetensors"
EMBEDDED = Path(__file__).parent / "embedded"
"""The checkpoint that ships; MODEL_CARD.md beside it says on what it was trained."""


def read(source: str | os.PathLike[str]) -> tuple[ModelConfig, Path | None]:
    """The config that a source stands for, and the file of its trained tensors (None for a LLaVA
    folder, whose parts hold everything). What is neither is a CheckpointError, or as a hub id a
    WeightsError."""
    folder = folder_of(source)
    name = os.path.expanduser(source) if not folder.exists() else str(folder)
    if folder.is_dir():
        if (folder / CONFIG_FILE).is_file():
            return read_config(folder / CONFIG_FILE), folder / TENSOR_FILE
        if (folder / "config.json").is_file():
            return ModelConfig(llava=name), None
        if any((each / CLIP_CONFIG_FILE).is_file() for each in (folder, folder / "checkpoint")):
            raise CheckpointError(
                f"{name} is a CLIP, which writes no answers: `vlm classify`, `vlm search` and "
                "`vlm attend` take it"
            )
        raise CheckpointError(
            f"{name} is no checkpoint: it has neither {CONFIG_FILE} nor a LLaVA model's config.json"
        )
    if get_close_matches(name, ["embedded"]):
        raise WeightsError(f"no folder {name} here: did you mean `embedded`?")
    from transformers.utils import cached_file

    hub_id = local_source(name)
    with reading(hub_id), quiet_loading():
        config_file = cached_file(hub_id, CONFIG_FILE, _raise_exceptions_for_missing_entries=False)
        if config_file is None:
            return ModelConfig(llava=hub_id), None
        tensors = cached_file(hub_id, TENSOR_FILE)
    return read_config(Path(config_file)), Path(tensors)


def folder_of(source: str | os.PathLike[str]) -> Path:
    """The folder that a checkpoint's name stands for: its own, that of its run, or `embedded`."""
    folder = EMBEDDED if source == "embedded" else Path(source).expanduser()
    kept = folder / "checkpoint"
    is_run = (kept / CONFIG_FILE).is_file() and not (folder / CONFIG_FILE).is_file()
    return kept if is_run else folder


def read_config(file: Path) -> ModelConfig:
    """The config in a checkpoint's file, or a CheckpointError."""
    try:
        return from_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error


def read_tensors(file: Path, wanted: Callable[[str], bool] = bool) -> dict[str, Tensor]:
    """The tensors in a checkpoint's file whose names are wanted; a CheckpointError if there is no
    such file."""
    with disk(f"cannot read {file}", CheckpointError), safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys() if wanted(name)}  # noqa: SIM118


def load_tensors(
    model: nn.Module, file: Path, required: set[str] | None = None, leave: Set[str] = frozenset()
) -> None:
    """Reads trained tensors into a model, in the model's own dtypes; its `trained` gains their
    names, of which the `required` ones (None: all that are in it already) must be in the file;
    some may be left. A CheckpointError if there is no file, or tensors are missing, left over or of
    another shape."""
    tensors = read_tensors(file, lambda name: name not in leave)
    state = model.state_dict()
    required = model.trained if required is None else required
    problems = [f"{name} is missing" for name in sorted(required - tensors.keys())]
    problems += [f"{name} is not in the model" for name in sorted(tensors.keys() - state.keys())]
    for name in sorted(tensors.keys() & state.keys()):
        found, own = tensors[name], state[name]
        if found.is_floating_point() > own.is_floating_point():
            problems.append(f"{name} is quantised in the model, leave out load_in")
        elif found.shape != own.shape:
            problems.append(f"{name} is {tuple(found.shape)}, the model has {tuple(own.shape)}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{file} does not fit the model: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(tensors, strict=False)
    model.trained |= tensors.keys()


def save(
    config: ModelConfig,
    trained: dict[str, Tensor],
    folder: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes a checkpoint of the trained tensors by name, which may be on any device; the folder is
    replaced if it is a checkpoint already. A dtype of None keeps each tensor's own."""
    written = {
        name: trained[name].detach().to("cpu", dtype or trained[name].dtype).contiguous()
        for name in sorted(trained)
    }

    def write(partial: Path) -> None:
        text = to_json(with_revisions(config))
        (partial / CONFIG_FILE).write_text(text, encoding="utf-8")
        save_file(written, partial / TENSOR_FILE, metadata={"format": "pt"})

    replace_folder(folder, write, holds=CONFIG_FILE)


def require_new(folder: Path) -> None:
    """Refuses, with a CheckpointError, a folder that is there already, unless it is empty."""
    folder = folder.expanduser()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CheckpointError(
            f"{folder} is there already: choose another output folder, or remove it"
        )


def with_revisions(config: ModelConfig) -> ModelConfig:
    """The config with the commits its parts were loaded at, where they came from the hub."""
    if config.llava:
        commit = commit_of(config.llava, config.llava_revision)
        return dataclasses.replace(config, llava_revision=commit)
    parts = {
        name: dataclasses.replace(part, revision=commit_of(part.source, part.revision))
        for name, part in (("vision", config.vision), ("language", config.language))
    }
    return dataclasses.replace(config, **parts)

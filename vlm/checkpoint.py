"""Checkpoint: a folder with the model's config and every tensor that was trained.

    vlm_config.json     the `ModelConfig`, naming the frozen parts and their revisions
    model.safetensors   projector, adapters, and whatever else was trained

The frozen parts themselves stay where their sources are.
"""

import dataclasses
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import cached_file

from vlm import weights
from vlm.atomic import replace_folder
from vlm.config import ModelConfig, from_json, to_json
from vlm.errors import CheckpointError, ConfigError
from vlm.language import load_language
from vlm.llava import load_parts
from vlm.model import VisionLanguageModel
from vlm.projector import Projector
from vlm.vision import load_vision

CONFIG_FILE = "vlm_config.json"
TENSOR_FILE = "model.safetensors"
EMBEDDED = Path(__file__).parent / "embedded"
"""The checkpoint that ships with the package; its MODEL_CARD.md says how it was trained."""


def build(
    config: ModelConfig,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> VisionLanguageModel:
    """A model with the frozen parts that the config names and a fresh projector.

    Args:
        config: what to build.
        device: None is CUDA where there is one, else the CPU.
        dtype: None is bfloat16 on CUDA, float32 on the CPU (where it is faster). A fresh projector
            is float32 in any case: it is what trains.

    Raises:
        WeightsError: a source that is not there.
        ConfigError: parts that do not fit together, or a device that is not there.
    """
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot use device {str(device)!r}: {reason}") from error
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    if config.llava:
        return load_parts(config, device, dtype)
    vision = load_vision(config.vision, dtype).to(device)
    language = load_language(config.language, device, dtype)
    projector = Projector(
        config.projector, vision.width, language.width, vision.grid, vision.num_tokens
    ).to(device)
    size = vision.preprocessing.size
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    projector.match_scale(vision(noise.to(device)).float(), language.embedding_rms())
    return VisionLanguageModel(config, vision, projector, language)


def load(
    source: str | os.PathLike[str] = "embedded",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    load_in: str | None = None,
    prompt: str | None = None,
) -> VisionLanguageModel:
    """Loads a model to talk to, in eval mode.

    Args:
        source: `embedded`, the folder or hub id of a checkpoint of this project, or the folder or
            hub id of a transformers LlavaForConditionalGeneration. Which of the two a folder is,
            the files in it say.
        device: None is CUDA where there is one, else the CPU.
        dtype: None is bfloat16 on CUDA, float32 on the CPU.
        load_in: `4bit` or `8bit` for the language model, through bitsandbytes.
        prompt: conversation format, where it should not be the one the model says.

    Raises:
        WeightsError: a source that is not there.
        CheckpointError: a folder that is no checkpoint, or whose tensors do not fit its config.
        ConfigError: parts that do not fit together.
    """
    config, tensors = read(source)
    given = {"load_in": load_in, "prompt": prompt}
    asked = {name: value for name, value in given.items() if value}
    config.language = dataclasses.replace(config.language, **asked)
    model = build(config, device, dtype)
    if tensors:
        load_tensors(model, tensors)
        model.projector.to(model.language.dtype)
    model.language.merge_adapters()
    return model.requires_grad_(False).eval()


def read(source: str | os.PathLike[str]) -> tuple[ModelConfig, Path | None]:
    """The config that a source stands for, and the file of its trained tensors (None for a LLaVA
    folder, whose parts hold everything).

    Raises:
        WeightsError, CheckpointError: as `load`.
    """
    name = os.path.expanduser(os.fspath(source))
    if name == "embedded":
        name = str(EMBEDDED)
    folder = Path(name)
    if folder.is_dir():
        if (folder / CONFIG_FILE).is_file():
            return read_config(folder / CONFIG_FILE), folder / TENSOR_FILE
        if (folder / "config.json").is_file():
            return ModelConfig(llava=name), None
        raise CheckpointError(
            f"{name} is no checkpoint: it has neither {CONFIG_FILE} nor a LLaVA model's config.json"
        )
    hub_id = weights.local_source(name)
    with weights.reading(hub_id):
        config_file = cached_file(hub_id, CONFIG_FILE, _raise_exceptions_for_missing_entries=False)
        if config_file is None:
            return ModelConfig(llava=hub_id), None
        tensors = cached_file(hub_id, TENSOR_FILE)
    return read_config(Path(config_file)), Path(tensors)


def read_config(file: Path) -> ModelConfig:
    """The config in a checkpoint's file.

    Raises:
        CheckpointError: a file that cannot be read, or holds something else.
    """
    try:
        return from_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error


def load_tensors(model: VisionLanguageModel, file: Path, required: set[str] | None = None) -> None:
    """Reads trained tensors into a model, in the model's own dtypes.

    Args:
        model: what they go into.
        file: where they are.
        required: names that must be in the file; None is all of `model.trained`.

    Raises:
        CheckpointError: no such file, or tensors that are missing, left over or of another shape.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"cannot read {file}: {reason}") from error
    state = model.state_dict()
    required = model.trained if required is None else required
    problems = [f"{name} is missing" for name in sorted(required - tensors.keys())]
    problems += [f"{name} is not in the model" for name in sorted(tensors.keys() - state.keys())]
    problems += [
        f"{name} is quantised in the model, leave out load_in"
        for name, tensor in tensors.items()
        if name in state and tensor.is_floating_point() > state[name].is_floating_point()
    ]
    problems += [
        f"{name} is {tuple(tensor.shape)}, the model has {tuple(state[name].shape)}"
        for name, tensor in tensors.items()
        if name in state and tensor.shape != state[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{file} does not fit the model: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(tensors, strict=False)
    model.trained |= tensors.keys()


def save(
    model: VisionLanguageModel,
    folder: Path,
    dtype: torch.dtype | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> None:
    """Writes a checkpoint: all of it or, after a crash, nothing where it was to be.

    Args:
        model: whose trained tensors are written.
        folder: made, or replaced if it is a checkpoint already.
        dtype: of the tensors in the file; None keeps each one's own.
        tensors: the trained ones by name, where the model's own are only parts of them; None takes
            the model's.

    Raises:
        CheckpointError: the folder holds something else, or cannot be written.
    """
    state = model.state_dict() if tensors is None else tensors
    written = {
        name: state[name].detach().to("cpu", dtype or state[name].dtype).contiguous()
        for name in sorted(model.trained)
    }

    def write(partial: Path) -> None:
        text = to_json(with_revisions(model.config))
        (partial / CONFIG_FILE).write_text(text, encoding="utf-8")
        save_file(written, partial / TENSOR_FILE, metadata={"format": "pt"})

    replace_folder(folder, write, holds=CONFIG_FILE)


def require_new(folder: Path) -> None:
    """Checks that nothing is where a new checkpoint is to be; an empty folder is nothing.

    Raises:
        CheckpointError: something is there.
    """
    folder = folder.expanduser()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CheckpointError(
            f"{folder} is there already: choose another output folder, or remove it"
        )


def with_revisions(config: ModelConfig) -> ModelConfig:
    """The config with the commits its parts were loaded at, where they came from the hub."""
    if config.llava:
        commit = weights.commit_of(config.llava, config.llava_revision)
        return dataclasses.replace(config, llava_revision=commit)
    parts = {
        name: dataclasses.replace(part, revision=weights.commit_of(part.source, part.revision))
        for name, part in (("vision", config.vision), ("language", config.language))
    }
    return dataclasses.replace(config, **parts)

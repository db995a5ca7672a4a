"""LLaVA: a transformers LlavaForConditionalGeneration taken apart into a model of ours, and a model
of ours put together into one. Equal logits on both sides (tests/test_llava.py)."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AddedToken,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from vlm import weights
from vlm.atomic import replace_folder
from vlm.config import ModelConfig, ProjectorConfig
from vlm.errors import CheckpointError, ConfigError, PromptError
from vlm.language import LanguageModel, quantization
from vlm.model import VisionLanguageModel
from vlm.preprocess import Preprocessing, read_preprocessing
from vlm.projector import Projector
from vlm.prompt import VICUNA_SYSTEM, resolve_format
from vlm.vision import TransformerTower, family_of, quiet_loading

IMAGE_TOKEN = "<image>"
"""Stands for an image token in the ids that transformers' Llava reads; ours have `IMAGE_SLOT`."""

CONTENT = (
    "{% macro content(message) %}{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endmacro %}"
)
CHAT_TEMPLATES = {
    "chatml": CONTENT
    + "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ content(message) }}"
    + "<|im_end|>\n{% endfor %}"
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "vicuna": CONTENT
    + "{{ bos_token }}{% if messages[0].role != 'system' %}"
    + VICUNA_SYSTEM
    + " {% endif %}{% for message in messages %}"
    + "{% if message.role == 'system' %}{{ content(message) }} "
    + "{% elif message.role == 'user' %}USER: {{ content(message) }} "
    + "{% else %}ASSISTANT: {{ content(message) }}{{ eos_token }}{% endif %}{% endfor %}"
    + "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
}
"""Jinja templates that write what prompt.py's formats of the same name write."""


def load_parts(
    config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> VisionLanguageModel:
    """The model that a LLaVA folder holds, frozen but for new adapters, in eval mode.

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
    return VisionLanguageModel(config, vision, projector, language).eval()


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


def export(model: VisionLanguageModel, folder: Path) -> None:
    """Writes a folder for transformers' LlavaForConditionalGeneration and AutoProcessor.

    Adapters are merged into the copy that is written, and a row for `<image>` is added to it where
    its embeddings have none free; the model itself stays as it is.

    Args:
        model: what is written; each tensor keeps its dtype.
        folder: made, or replaced if it holds a transformers model already.

    Raises:
        ConfigError: a part that LLaVA's format cannot hold.
        CheckpointError: the folder holds something else, or cannot be written.
    """
    check_exportable(model)
    tower, language = model.vision, model.language
    strategy = "default" if tower.select == "default" and tower.family.special_tokens else "full"
    check_tower(tower.model.config, strategy)
    check_head(language.model.config)

    tokenizer = copy.deepcopy(language.tokenizer)
    if IMAGE_TOKEN not in tokenizer.get_added_vocab():
        tokenizer.add_tokens(AddedToken(IMAGE_TOKEN, special=True, normalized=False))
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    state, embeddings = language_state(language.model)
    tied = state["lm_head.weight"].data_ptr() == state[embeddings].data_ptr()
    state[embeddings] = with_rows(state[embeddings], image_id + 1)
    state["lm_head.weight"] = (
        state[embeddings] if tied else with_rows(state["lm_head.weight"], image_id + 1)
    )
    for part, module in (
        ("vision_tower", tower.model),
        ("multi_modal_projector", model.projector.projection),
    ):
        state |= {f"model.{part}.{name}": tensor for name, tensor in module.state_dict().items()}

    # A backbone's config names layers that the tower has dropped.
    vision_config = tower.model.config.to_dict()
    vision_config |= {"stage_names": None, "out_features": None, "out_indices": None}
    text_config = copy.deepcopy(language.model.config)
    text_config.vocab_size = len(state[embeddings])
    text_config.tie_word_embeddings = tied
    llava_config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=image_id,
        image_seq_length=tower.num_tokens,
        vision_feature_layer=tower.layers[0] if len(tower.layers) == 1 else tower.layers,
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=tied,
    )
    llava = fill(llava_config, state)
    llava.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(language.end_ids()) or None,
        pad_token_id=tokenizer.pad_token_id,
    )
    template = CHAT_TEMPLATES.get(resolve_format(tokenizer, model.config.language.prompt))
    tokenizer.chat_template = template or tokenizer.chat_template
    processor = LlavaProcessor(
        image_processor(tower.preprocessing),
        tokenizer,
        patch_size=tower.model.config.patch_size,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=tower.family.special_tokens,
        chat_template=template,
    )

    def write(partial: Path) -> None:
        llava.save_pretrained(partial)
        processor.save_pretrained(partial)

    with quiet_loading():
        replace_folder(folder, write, holds="config.json")


@torch.no_grad()
def language_state(model: PreTrainedModel) -> tuple[dict[str, Tensor], str]:
    """A causal language model's tensors under the names they have inside a LLaVA, LoRA adapters
    merged, and the name of its embedding table."""
    state = model.state_dict()
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and not module.merged:
            base = state[f"{name}.base_layer.weight"]
            delta = sum(module.get_delta_weight(adapter) for adapter in module.active_adapters)
            merged = base.float() + delta.float()
            state[f"{name}.base_layer.weight"] = merged.to(base.dtype)
    names = {module: name for name, module in model.named_modules()}
    prefixes = {
        f"{model.base_model_prefix}.": "model.language_model.",
        f"{names[model.get_output_embeddings()]}.": "lm_head.",
    }

    def inside(name: str) -> str:
        for prefix, new in prefixes.items():
            if name.startswith(prefix):
                return (new + name.removeprefix(prefix)).replace(".base_layer.", ".")
        return name

    tensors = {inside(name): tensor for name, tensor in state.items() if ".lora_" not in name}
    return tensors, inside(f"{names[model.get_input_embeddings()]}.weight")


def with_rows(table: Tensor, rows: int) -> Tensor:
    """A table (V, H) with at least so many rows; new ones are the mean of the others."""
    if rows <= len(table):
        return table
    mean = table.float().mean(dim=0, keepdim=True).to(table.dtype)
    return torch.cat([table, mean.expand(rows - len(table), -1)])


def fill(config: LlavaConfig, state: dict[str, Tensor]) -> LlavaForConditionalGeneration:
    """A LLaVA that shares these tensors.

    Raises:
        ConfigError: tensors that it has no place for, or places without one.
    """
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    places = llava.state_dict()
    for name in places.keys() - state.keys():
        # What a ViT gives besides its patch tokens: our tower has dropped it, LLaVA never reads it.
        if name.startswith("model.vision_tower.pooler."):
            state[name] = torch.zeros(places[name].shape, dtype=state["lm_head.weight"].dtype)
    different = sorted(places.keys() ^ state.keys())
    if different:
        raise ConfigError(
            f"transformers' Llava has another form of {config.text_config.model_type} or "
            f"{config.vision_config.model_type}, so it cannot be exported: {different[0]} differs"
        )
    llava.load_state_dict(state, assign=True)
    llava.tie_weights()
    return llava.requires_grad_(False).eval()


def image_processor(preprocessing: Preprocessing) -> LlavaImageProcessorPil:
    """The transformers image processor that does the same."""
    side, edge = preprocessing.size, preprocessing.shortest_edge or preprocessing.size
    crop = preprocessing.resize == "crop"
    return LlavaImageProcessorPil(
        size={"shortest_edge": edge} if crop else {"height": edge, "width": edge},
        crop_size={"height": side, "width": side},
        do_pad=preprocessing.resize == "pad",
        image_mean=list(preprocessing.mean),
        image_std=list(preprocessing.std),
        resample=preprocessing.resample,
    )


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


def check_exportable(model: VisionLanguageModel) -> None:
    """Checks a model for what LLaVA's format cannot hold.

    Raises:
        ConfigError: says what, and why.
    """
    tower, projector = model.vision, model.config.projector
    cannot = "cannot be exported: LLaVA's format has "
    if not isinstance(tower, TransformerTower):
        raise ConfigError(f"a convolutional vision tower {cannot}only transformers' own towers")
    if projector.kind != "mlp":
        raise ConfigError(f"projector.kind={projector.kind} {cannot}only the mlp")
    if projector.input_norm:
        raise ConfigError(f"projector.input_norm {cannot}no LayerNorm in front of its projector")
    if projector.hidden not in (None, model.language.width):
        raise ConfigError(
            f"projector.hidden={projector.hidden} {cannot}only the language model's width"
        )
    if projector.reduce != "none":
        raise ConfigError(f"projector.reduce={projector.reduce} {cannot}every patch as one token")
    size, trained = tower.preprocessing.size, getattr(tower.model.config, "image_size", None)
    if tower.family.interpolates and size != trained:
        raise ConfigError(
            f"vision.image_size={size} {cannot}no interpolated positions, "
            f"only the tower's own {trained} px"
        )
    if any(not weight.is_floating_point() for weight in model.language.model.parameters()):
        raise ConfigError(
            f"a quantised language model {cannot}whole weights only; load it without load_in"
        )

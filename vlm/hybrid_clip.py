"""This project's own CLIP: a hybrid ViT (Dosovitskiy et al. 2020) over the feature maps of a frozen
EfficientNet, beside a frozen sentence encoder with a trained head. A checkpoint is a folder:

    clip_config.json    the `ClipConfig`
    model.safetensors   what was trained: the ViT, both heads, scale and bias
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from pydantic_core import to_jsonable_python
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize

from vlm.checkpoint import CLIP_CONFIG_FILE, EMBEDDED, TENSOR_FILE, load_tensors
from vlm.config import ClipConfig, VisionConfig
from vlm.dual_encoder import DualEncoder
from vlm.efficientnet import EfficientNetTower
from vlm.errors import CheckpointError, VLMError
from vlm.files import read_text, replace_folder, sha256
from vlm.minilm import WIDTH, MiniLM
from vlm.settings import read
from vlm.vit import ViT


def stem_config(config: ClipConfig) -> VisionConfig:
    """The frozen stem: the last of its feature maps at 16 pixels a position, for where things are
    and how many, then the last of all, for what they are."""
    return VisionConfig(layers=[11, -1], image_size=config.image_size)


class ImageTower(nn.Module):
    """The stem's patch tokens (B, N, C) -> patch tokens and embeddings."""

    def __init__(self, config: ClipConfig, stem: EfficientNetTower) -> None:
        super().__init__()
        self.parts = stem.widths
        self.vit = ViT(
            stem.width, 1, stem.grid, config.width, config.depth, config.heads, config.dropout
        )
        self.head = nn.Linear(config.width, config.embedding, bias=False)
        # What the stem sees on average needs no attention to be told.
        self.stem_head = nn.Linear(stem.widths[-1], config.embedding, bias=False)

    def normed(self, stem_tokens: Tensor) -> Tensor:
        """The same (B, N, C), each feature map of mean 0 and variance 1 at every position."""
        parts = stem_tokens.float().split(self.parts, dim=-1)
        return torch.cat([layer_norm(part, part.shape[-1:]) for part in parts], dim=-1)

    def maps(self, stem_tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, C, rows, columns), of a square."""
        side = math.isqrt(stem_tokens.shape[1])
        return stem_tokens.transpose(1, 2).unflatten(2, (side, side))

    def forward(self, stem_tokens: Tensor) -> Tensor:
        """(B, N, C) -> embeddings (B, D)."""
        stem_tokens = self.normed(stem_tokens)
        mean = stem_tokens[..., -self.parts[-1] :].mean(dim=1)
        return self.head(self.vit(self.maps(stem_tokens))[:, 0]) + self.stem_head(mean)

    def attentions(self, stem_tokens: Tensor) -> Tensor:
        """Of one photo (1, N, C) -> those of the ViT (L, A, 1 + N, 1 + N)."""
        return self.vit.attentions(self.maps(self.normed(stem_tokens)))

    def patches(self, stem_tokens: Tensor) -> Tensor:
        """(B, N, C) -> embeddings (B, N, D), see `DualEncoder.patch_features`."""
        stem_tokens = self.normed(stem_tokens)
        *blocks, last = self.vit.blocks
        tokens = self.vit.embed(self.maps(stem_tokens))
        for block in blocks:
            tokens = block(tokens)
        *_, values = last.attention.in_heads(last.norm_attention(tokens[:, 1:]))
        alone = tokens[:, :1] + last.attention.out(values.transpose(1, 2).flatten(2))
        alone = self.vit.norm_out(alone + last.feed_forward(last.norm_feed_forward(alone)))
        return self.head(alone) + self.stem_head(stem_tokens[..., -self.parts[-1] :])


class TextHead(nn.Module):
    """Sentences' embeddings (T, 384) -> embeddings (T, D): a linear map, and a hidden layer's
    correction of it."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, config.embedding, bias=False)
        self.hidden = nn.Sequential(
            nn.Linear(WIDTH, 4 * config.embedding),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(4 * config.embedding, config.embedding),
        )

    def forward(self, sentences: Tensor) -> Tensor:
        sentences = normalize(sentences, dim=-1) * WIDTH**0.5
        return self.linear(sentences) + self.hidden(sentences)


class HybridClip(DualEncoder):
    """Only the stem's and the sentence encoder's weights are not random before they are loaded or
    trained. `trained` are the names of all others."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config, self.fingerprint = config, ""
        self.activation = config.activation
        self.stem = EfficientNetTower(stem_config(config))
        self.stem.fold()
        self.preprocessing = self.stem.preprocessing
        self.image, self.text = ImageTower(config, self.stem), TextHead(config)
        # As published: CLIP's temperature of 0.07; SigLIP's of 0.1, with a bias that makes all
        # pairs improbable, as most are.
        softmax = config.activation == "softmax"
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07 if softmax else 10.0)))
        self.logit_bias = nn.Parameter(torch.tensor(0.0 if softmax else -10.0), not softmax)
        self.trained = {name for name in self.state_dict() if not name.startswith("stem.")}

    def forward(self, loss: Callable[["HybridClip"], Tensor]) -> Tensor:
        """The loss of itself: what wraps it for several processes must see every use of its weights
        in its forward pass."""
        return loss(self)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        return normalize(self.image(self.stem(pixel_values)), dim=-1)

    def patch_features(self, pixel_values: Tensor) -> Tensor:
        return normalize(self.image.patches(self.stem(pixel_values)), dim=-1)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        return normalize(self.text(self.sentences(texts).to(self.device)), dim=-1)

    def too_long(self, texts: Sequence[str]) -> list[str]:
        return self.sentences.too_long(texts)

    @property
    def scale(self) -> Tensor:
        return self.logit_scale.exp()

    @property
    def bias(self) -> Tensor:
        return self.logit_bias

    @cached_property
    def sentences(self) -> MiniLM:
        """Fetched when the first text is read: photos do not need it."""
        return MiniLM()


def hybrid_folder(source: str) -> Path | None:
    """The folder of the checkpoint that a name stands for: its own, that of its run, or `embedded`;
    None if it is none of this kind."""
    folder = EMBEDDED / "clip" if source == "embedded" else Path(source).expanduser()
    found = (
        each for each in (folder, folder / "checkpoint") if (each / CLIP_CONFIG_FILE).is_file()
    )
    return next(found, None)


def load_hybrid(folder: Path) -> HybridClip:
    """Loads a checkpoint, in float32, frozen, in eval mode; a CheckpointError if it is damaged."""
    file = folder / CLIP_CONFIG_FILE
    try:
        config = read(ClipConfig, read_text(file))
    except VLMError as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error
    clip = HybridClip(config)
    load_tensors(clip, folder / TENSOR_FILE)
    clip.fingerprint = sha256(folder / TENSOR_FILE)
    return clip.requires_grad_(False).eval()


def save_hybrid(config: ClipConfig, trained: dict[str, Tensor], folder: Path) -> None:
    """Writes a checkpoint of the trained tensors by name, which may be on any device; the folder is
    replaced if it is a checkpoint already."""

    def write(partial: Path) -> None:
        text = json.dumps(to_jsonable_python(config), indent=2) + "\n"
        (partial / CLIP_CONFIG_FILE).write_text(text, encoding="utf-8")
        save_file(trained, partial / TENSOR_FILE, metadata={"format": "pt"})

    replace_folder(folder, write, holds=CLIP_CONFIG_FILE)

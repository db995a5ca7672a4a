"""Attention maps: what a vision tower and a language model look at, as numbers.

Attention weights are those that transformers computes itself in its `eager` implementation. Those
of all layers and heads are in memory together: 0.5 GB, in float32, of ViT-L/14 at 336 px.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlm.errors import ConfigError
from vlm.hybrid_tower import HybridTower
from vlm.model import VisionLanguageModel
from vlm.projector import Projector, Resampler, TokenReduction
from vlm.prompt import Prompt
from vlm.tower import VisionTower
from vlm.vision import TransformerTower

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def attentions(model: "PreTrainedModel") -> Iterator[list[Tensor]]:
    """Within, each pass of a transformers model over one photo or conversation adds its
    `output_attentions` to the list: (L, A, T, T), float32, on the CPU, the weights with which in
    each of L layers and A heads every token looks at every one. A ConfigError if it has none."""
    passes: list[Tensor] = []

    def ask(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {**kwargs, "output_attentions": True}

    def keep(_: nn.Module, args: tuple, output: Any) -> None:
        # In a hybrid, layers without attention have None.
        layers = [each for each in getattr(output, "attentions", None) or () if each is not None]
        if not layers:
            raise ConfigError(f"{model.config.model_type} gives no attention weights")
        passes.append(torch.cat([layer.float().cpu() for layer in layers]))

    before = model.config._attn_implementation
    hooks = [
        model.register_forward_pre_hook(ask, with_kwargs=True),
        model.register_forward_hook(keep),
    ]
    try:
        # In the other implementations the weights never exist as a whole.
        model.set_attn_implementation("eager")
        yield passes
    finally:
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation(before)


@torch.no_grad()
def tower_attention(tower: VisionTower, pixel_values: Tensor) -> Tensor:
    """Pixel values (1, 3, H, W) -> attention (L, A, T, T), float32, of the layers that the tower
    keeps, its special tokens in front of the patches, CLS first. A ConfigError for a tower in which
    not every token looks at every one: a convolutional one, or Swin."""
    if isinstance(tower, HybridTower):
        if not tower.image.vit.blocks:
            raise ConfigError(
                "the vision tower's ViT has one block, behind which only its CLS token goes on: "
                "there is no attention to show"
            )
        return tower.image.attentions(tower.stem(pixel_values)).cpu()
    if not isinstance(tower, TransformerTower):
        raise ConfigError(
            "the vision tower is a convolutional network: it has no attention to show, and no CLS "
            "token"
        )
    if tower.model.config.model_type == "swin":
        raise ConfigError(
            "swin looks through shifted windows and has no CLS token: CLS attention and rollout "
            "are not defined"
        )
    with attentions(tower.model) as passes:
        tower(pixel_values)
    return passes[0]


def rollout(attention: Tensor) -> Tensor:
    """Attention (L, A, T, T) -> the share of each token at the input in each one at the output,
    (T, T), whose rows sum to one: attention rollout (Abnar & Zuidema 2020). Heads are averaged, and
    half of what leaves a layer came through its residual connection."""
    layers = (attention.mean(dim=1) + torch.eye(attention.shape[-1])) / 2
    return reduce(lambda below, layer: layer @ below, layers)


def patch_maps(attention: Tensor, special_tokens: int, grid: tuple[int, int]) -> Tensor:
    """Attention or rollout (..., T, T) -> what the CLS token looks at, on the grid of the patches
    (..., rows, columns); without special tokens, the mean of what all patches look at."""
    looks = attention[..., 0, :] if special_tokens else attention.mean(dim=-2)
    return looks[..., special_tokens:].unflatten(-1, grid)


@torch.no_grad()
def answer_attention(model: VisionLanguageModel, prompt: Prompt) -> tuple[list[str], Tensor]:
    """A conversation with one answer, its end -> the W words of the answer, and what the language
    model looks at for each: (W, T), float32, the mean of all layers and heads; rows sum to one.

    For a token that is the attention at the position before it, where it is chosen; for a word of
    several tokens their mean. A ConfigError for a language model without attention."""
    ends, ids = model.language.end_ids(), prompt.input_ids
    answer = [at for at, said in enumerate(prompt.loss_mask) if said]
    answer = list(takewhile(lambda at: ids[at] not in ends, answer))
    image_tokens = model.project(model.encode_images(prompt.images)).flatten(0, 1)
    embeddings = model.embed(torch.tensor([ids], device=model.device), [image_tokens])
    with attentions(model.language.model) as passes:
        model.language(embeddings, logits_to_keep=1)
    looks = passes[0].mean(dim=(0, 1))[[at - 1 for at in answer]]
    words = words_of([ids[at] for at in answer], model.language.tokenizer)
    rows = [looks[tokens].mean(dim=0) for _, tokens in words]
    return [word for word, _ in words], torch.stack(rows) if rows else looks[:0]


def words_of(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> list[tuple[str, slice]]:
    """The words of a text, which are between its spaces, punctuation included, and the tokens of
    each. A space belongs to the word behind it; words that share a token are told as one."""
    texts = [
        tokenizer.decode(
            ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        ).rstrip("\ufffd")  # Half a character, until its other half comes.
        for end in range(len(ids) + 1)
    ]
    words = list(re.finditer(r"\S+", texts[-1]))
    if not words:
        return []
    ends = [word.end() for word in words]
    # A token belongs to the first word that goes on where the token begins.
    of = [min(bisect_right(ends, len(text)), len(words) - 1) for text in texts[:-1]] + [len(words)]
    cuts = [0, *(at for at in range(1, len(of)) if of[at] != of[at - 1])]
    return [
        (" ".join(word[0] for word in words[of[start] : of[end]]), slice(start, end))
        for start, end in pairwise(cuts)
    ]


def image_grid(projector: Projector, grid: tuple[int, int]) -> tuple[int, int]:
    """The rows and columns of an image's tokens behind the projector, of a tower's grid of patches.
    A ConfigError for a resampler, whose tokens have no place in the photo, and for tiles, where
    each place is seen twice."""
    if projector.row_break is not None:
        raise ConfigError(
            "the photo is cut into tiles beside a thumbnail (vision.tiles): each place is seen "
            "twice, and one map of where a word looks is not defined"
        )
    if isinstance(projector.projection, Resampler):
        raise ConfigError(
            "the projector is a resampler: its image tokens are no patches, and where in the photo "
            "a word looks is not defined"
        )
    reduction = projector.reduction
    factor = reduction.factor if isinstance(reduction, TokenReduction) else 1
    return grid[0] // factor, grid[1] // factor


def image_maps(attention: Tensor, slots: range, grid: tuple[int, int]) -> Tensor:
    """Attention (W, T) -> that to the image tokens in these slots, on their grid (W, rows,
    columns). Special tokens of the tower, if it keeps them, stand in front and are left out."""
    return attention[:, slots.stop - grid[0] * grid[1] : slots.stop].unflatten(1, grid)

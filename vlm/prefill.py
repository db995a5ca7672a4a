"""Prefill: prompts -> keys and values in a cache, and the logits of each answer's first token.

Questions about one photo begin alike, with the photo: that part is computed once for all of them
(`shared_prefix`), and each question's own words are put behind a copy of its keys and values.
"""

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm.errors import WeightsError
from vlm.language import LanguageModel
from vlm.llama import KeysValues, Llama
from vlm.prompt import Prompt

if TYPE_CHECKING:
    from transformers import Cache

Language: TypeAlias = LanguageModel | Llama


@dataclass
class Prefill:
    """Where decoding of B prompts begins: a cache, to which what is decoded is added, its attention
    mask (B, S), int64, and the logits (B, V), float32, of the answers' first tokens."""

    cache: "Cache | KeysValues"
    attention_mask: Tensor
    logits: Tensor

    def select(self, rows: Tensor) -> "Prefill":
        """The prompts of these numbers (R,), int64, of which one may come several times. The cache
        is the same object, changed in place."""
        self.cache.reorder_cache(rows)
        return Prefill(self.cache, self.attention_mask[rows], self.logits[rows])

    def join(self, other: "Prefill") -> "Prefill":
        """These prompts and then those of another, whose caches are both used up, of a language
        model that `keeps_all`. The shorter ones are padded on the left; padding there that no row
        needs goes, since a cache that rows join and leave would else grow for ever."""
        masks = self.attention_mask, other.attention_mask
        length = max(mask.shape[1] - int(mask.any(dim=0).int().argmax()) for mask in masks)
        logits = torch.cat([self.logits, other.logits])
        mask = torch.cat([F.pad(mask, (length - mask.shape[1], 0)) for mask in masks])
        if isinstance(self.cache, KeysValues):
            self.cache.rows += other.cache.rows
            return Prefill(self.cache, mask, logits)
        for layer, new in zip(self.cache.layers, other.cache.layers, strict=True):
            for name in ("keys", "values"):
                both = getattr(layer, name), getattr(new, name)
                # A negative number of places cuts.
                padded = [F.pad(one, (0, 0, length - one.shape[-2], 0)) for one in both]
                setattr(layer, name, torch.cat(padded))
        return Prefill(self.cache, mask, logits)

    def extend(self, language: Language, ids: Tensor) -> "Prefill":
        """One token more for each prompt, of ids (B, 1)."""
        return prefill(language, language.embed(ids), torch.ones_like(ids), after=self)


@torch.inference_mode()
def prefill(
    language: Language,
    embeddings: Tensor,
    attention_mask: Tensor,
    after: Prefill | None = None,
) -> Prefill:
    """Runs the language model over spliced prompts (B, T, H), padded on the left where their
    attention mask (B, T) is 0; the cache of what came before in each row is extended in place. A
    WeightsError if what comes out is not a number."""
    cache = language.new_cache() if after is None else after.cache
    if after is not None:
        attention_mask = torch.cat([after.attention_mask, attention_mask], dim=1)
    logits = language(embeddings, attention_mask, cache, logits_to_keep=1)
    logits = logits[:, -1].float()
    if logits.isnan().any() or logits.isposinf().any():
        raise WeightsError(
            "what the model computes is not a number (NaN): its weights are damaged, or too large "
            f"for {language.dtype}"
        )
    return Prefill(cache, attention_mask, logits)


def shared_prefix(prompts: list[Prompt]) -> tuple[list[Prompt], list[Prompt], list[int]] | None:
    """Splits prompts into what neighbours about the same images begin with, images included; each
    prompt's own end, of a token or more; and the numbers of the prompts' beginnings. None if
    nothing is shared."""
    groups: list[list[Prompt]] = []
    for prompt in prompts:
        if groups and prompt.images and prompt.images == groups[-1][0].images:
            groups[-1].append(prompt)
        else:
            groups.append([prompt])
    beginnings, ends, numbers = [], [], []
    for number, group in enumerate(groups):
        first = group[0]
        shortest = min(map(len, group)) - 1
        alike = zip(*(prompt.input_ids[:shortest] for prompt in group), strict=True)
        shared = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, alike))
        images_end = max((slot.stop for slot in first.image_slots), default=0)
        if len(groups) == len(prompts) or shared < max(images_end, 1):
            return None
        ids, mask = first.input_ids[:shared], first.loss_mask[:shared]
        beginnings.append(replace(first, input_ids=ids, loss_mask=mask))
        ends += [Prompt(p.input_ids[shared:], p.loss_mask[shared:], [], []) for p in group]
        numbers += [number] * len(group)
    return beginnings, ends, numbers

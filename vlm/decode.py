"""Decode: logits -> the next token, one at a time, for one prompt or a batch of them."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vlm.config import GenerationConfig
from vlm.llama import KeysValues
from vlm.prefill import Language, Prefill

Filter = Callable[[Tensor, Tensor], Tensor]
"""(ids (B, S), logits (B, V)) -> logits (B, V), as transformers has it."""


def filters(config: GenerationConfig) -> list[Filter]:
    """What is done to logits before a token is chosen: CTRL's penalty on repetition (Keskar et al.
    2019), and where tokens are sampled, temperature, top-k (Fan et al. 2018) and nucleus (Holtzman
    et al. 2020)."""
    if config.temperature == 0 and config.repetition_penalty == 1:
        return []
    from transformers import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    steps: list[Filter] = []
    if config.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(float(config.repetition_penalty)))
    if config.temperature > 0:
        steps.append(TemperatureLogitsWarper(float(config.temperature)))
        if config.top_k is not None:
            steps.append(TopKLogitsWarper(config.top_k))
        if config.top_p < 1:
            steps.append(TopPLogitsWarper(float(config.top_p)))
    return steps


def next_token(
    logits: Tensor, seen: Tensor, config: GenerationConfig, generator: torch.Generator
) -> int:
    """Chooses one row's next token by its logits (V,), float32, the ids of the prompt's text and of
    what was generated (S,), and its own source of randomness, on the CPU."""
    for step in filters(config):
        (logits,) = step(seen[None], logits[None])
    if config.temperature == 0:
        return int(logits.argmax())
    # Drawn on the CPU, so that a seed means the same on every device.
    return int(torch.multinomial(logits.softmax(dim=0).cpu(), 1, generator=generator))


@torch.inference_mode()
def decode(
    language: Language,
    start: Prefill,
    prompt_ids: list[list[int]],
    end_ids: set[int],
    config: GenerationConfig,
    ended: set[int],
) -> Iterator[list[int | None]]:
    """Generates token by token: at each step each row's new token, None where it has ended. The
    cache of `start` is used up; the text in `prompt_ids` counts for the repetition penalty; to the
    rows that have `ended` the caller adds those that a stop string ends."""
    device = start.logits.device
    batch = len(start.logits)
    generators = [torch.Generator().manual_seed(config.seed) for _ in range(batch)]
    seen = [torch.tensor(ids, dtype=torch.long, device=device) for ids in prompt_ids]
    rows = list(range(batch))  # Of each row that is computed, its number in the batch.
    for left in reversed(range(config.max_tokens)):
        step: list[int | None] = [None] * batch
        for place, row in enumerate(rows):
            if row in ended:
                continue
            token = next_token(start.logits[place], seen[row], config, generators[row])
            if token in end_ids:
                ended.add(row)
            else:
                step[row] = token
                seen[row] = torch.cat([seen[row], seen[row].new_tensor([token])])
        if len(ended) == batch:
            return
        yield step
        if len(ended) == batch or left == 0:
            return
        going = [place for place, row in enumerate(rows) if row not in ended]
        few = len(rows) if isinstance(start.cache, KeysValues) else len(rows) // 2 + 1
        if len(going) < few and not language.stateful:
            # To leave out a few would cost more, a copy of transformers' cache, than they do.
            start = start.select(torch.tensor(going, device=device))
            rows = [rows[place] for place in going]
        # A row that has ended rides along on any token; what comes of it is not read.
        ids = torch.tensor([[step[row] or 0] for row in rows], device=device)
        start = start.extend(language, ids)

"""Decode: logits -> the next token, one at a time, for one prompt or a batch of them."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vlm.config import GenerationConfig
from vlm.language import LanguageModel
from vlm.prefill import Prefill


def filters(config: GenerationConfig) -> LogitsProcessorList:
    """What is done to logits before a token is chosen: CTRL's penalty on repetition (Keskar et al.
    2019), and where tokens are sampled, temperature, top-k (Fan et al. 2018) and nucleus (Holtzman
    et al. 2020)."""
    steps = LogitsProcessorList()
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
    (logits,) = filters(config)(seen[None], logits[None])
    if config.temperature == 0:
        return int(logits.argmax())
    # Drawn on the CPU, so that a seed means the same on every device.
    return int(torch.multinomial(logits.softmax(dim=0).cpu(), 1, generator=generator))


@torch.inference_mode()
def decode(
    language: LanguageModel,
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
    for left in reversed(range(config.max_tokens)):
        step: list[int | None] = [None] * batch
        for row in set(range(batch)) - ended:
            token = next_token(start.logits[row], seen[row], config, generators[row])
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
        # A row that has ended rides along on any token; what comes of it is not read.
        ids = torch.tensor([[0 if t is None else t] for t in step], device=device)
        start = start.extend(language, ids)

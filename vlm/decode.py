"""Decode: logits -> the next token, one at a time, for one prompt or a batch of them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vlm.config import GenerationConfig
from vlm.language import LanguageModel
from vlm.prefill import Prefill


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """CTRL's penalty (Keskar et al. 2019): the logits of tokens already there are divided by the
    penalty where positive and multiplied where negative. Logits (V,), ids already there (S,)."""
    chosen = logits[seen]
    return logits.scatter(0, seen, torch.where(chosen < 0, chosen * penalty, chosen / penalty))


def filter_top_k(logits: Tensor, top_k: int) -> Tensor:
    """All but the `top_k` largest of the logits (V,) become -inf (Fan et al. 2018)."""
    smallest = logits.topk(min(top_k, logits.numel())).values[-1]
    return logits.masked_fill(logits < smallest, -torch.inf)


def filter_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keeps the smallest set of tokens whose probabilities sum to `top_p` at least (nucleus
    sampling, Holtzman et al. 2020); the logits (V,) of the others become -inf."""
    ordered, order = logits.sort(descending=True)
    probabilities = ordered.softmax(dim=0)
    before = probabilities.cumsum(dim=0) - probabilities
    return logits.scatter(0, order, ordered.masked_fill(before >= top_p, -torch.inf))


def next_token(
    logits: Tensor, seen: Tensor, config: GenerationConfig, generator: torch.Generator
) -> int:
    """Chooses one row's next token by its logits (V,), float32, the ids of the prompt's text and of
    what was generated (S,), and its own source of randomness, on the CPU."""
    if config.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, seen, config.repetition_penalty)
    if config.temperature == 0:
        return int(logits.argmax())
    logits = logits / config.temperature
    if config.top_k is not None:
        logits = filter_top_k(logits, config.top_k)
    if config.top_p < 1:
        logits = filter_top_p(logits, config.top_p)
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
    """Generates token by token: at each step each row's new token, None where it has ended.

    Args:
        start: of B prompts; its cache is used up.
        prompt_ids: the text tokens of each prompt, for the repetition penalty.
        end_ids: tokens that end an answer.
        ended: the rows that have ended; the caller adds those that a stop string ends.
    """
    device = start.logits.device
    batch = len(start.logits)
    generators = [torch.Generator().manual_seed(config.seed) for _ in range(batch)]
    seen = [torch.tensor(ids, dtype=torch.long, device=device) for ids in prompt_ids]
    for left in reversed(range(config.max_tokens)):
        step: list[int | None] = []
        for row in range(batch):
            if row in ended:
                step.append(None)
                continue
            token = next_token(start.logits[row], seen[row], config, generators[row])
            if token in end_ids:
                ended.add(row)
                step.append(None)
                continue
            step.append(token)
            seen[row] = torch.cat([seen[row], seen[row].new_tensor([token])])
        if len(ended) == batch:
            return
        yield step
        if len(ended) == batch or left == 0:
            return
        # A row that has ended rides along on any token; what comes of it is not read.
        ids = torch.tensor([[0 if t is None else t] for t in step], device=device)
        start = start.extend(language, ids)

"""Decode: logits -> the next token, one at a time, for one prompt or many that join and leave."""

from collections.abc import Callable

import torch
from torch import Tensor

from vlm.answer import AnswerText
from vlm.config import GenerationConfig
from vlm.llama import KeysValues
from vlm.prefill import Language, Prefill
from vlm.prompt import IMAGE_SLOT

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


class Answer:
    """One answer as it is decoded, with all that is its own.

    Attributes:
        seen: ids (S,) of the prompt's text and of what was generated, the end of it included; they
            count for the repetition penalty.
        left: tokens that it may still have.
        ended: by a token, a stop string or for its length; or by the caller, who may set it between
            two steps.
    """

    def __init__(self, language: Language, prompt_ids: list[int], config: GenerationConfig) -> None:
        self.config = config
        text_ids = [i for i in prompt_ids if i != IMAGE_SLOT]
        self.seen = torch.tensor(text_ids, dtype=torch.long, device=language.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.text = AnswerText(language.tokenizer, config.stop)
        self.left = config.max_tokens
        self.ended = False

    def take(self, token: int, is_end: bool) -> str:
        """Takes its next token, gives the text that is now certain."""
        self.seen = torch.cat([self.seen, self.seen.new_tensor([token])])
        self.left -= 1
        piece = "" if is_end else self.text.push(token)
        self.ended = is_end or self.text.stopped or self.left == 0
        return piece + self.text.finish() if self.ended else piece


class Decoding:
    """Answers that are decoded together, of which each may join and leave between two steps
    (iteration-level scheduling, Yu et al. 2022). None of it makes a difference to the others."""

    def __init__(self, language: Language, end_ids: set[int]) -> None:
        self.language, self.end_ids = language, end_ids
        # A row of `start` for each answer, of which some may have ended.
        self.answers: list[Answer] = []
        self.start: Prefill | None = None
        self.behind = False  # Whether the newest tokens are not in the cache yet.

    @property
    def running(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.ended]

    @property
    def open(self) -> bool:
        """Whether others can join now, and need not wait until all that run have ended."""
        return self.language.keeps_all or not self.running

    @torch.inference_mode()
    def leave(self) -> None:
        """Drops the rows that have ended, as should be done before others are prefilled: then no
        more are in memory than go on."""
        going = [place for place, answer in enumerate(self.answers) if not answer.ended]
        if not going:
            self.start = None
        elif len(going) < len(self.answers):
            self.start = self.start.select(torch.tensor(going, device=self.language.device))
        self.answers = self.running

    @torch.inference_mode()
    def join(self, start: Prefill, answers: list[Answer]) -> None:
        """Adds answers to the prompts that `start` is of, whose cache is used up, if `open`."""
        self.leave()
        self._catch_up()
        self.start = start if self.start is None else self.start.join(start)
        self.answers += answers

    @torch.inference_mode()
    def step(self) -> list[tuple[Answer, str]]:
        """One token more of each answer that has not ended: those, with the text that is new."""
        going, rows = len(self.running), len(self.answers)
        # To leave out a few would cost more, a copy of transformers' cache, than they do.
        if going <= rows // 2 or (going < rows and isinstance(self.start.cache, KeysValues)):
            self.leave()
        self._catch_up()
        new = []
        for place, answer in enumerate(self.answers):
            if not answer.ended:
                logits = self.start.logits[place]
                token = next_token(logits, answer.seen, answer.config, answer.generator)
                new.append((answer, answer.take(token, token in self.end_ids)))
        self.behind = True
        return new

    def _catch_up(self) -> None:
        """Brings the newest tokens into the cache, if any answer goes on."""
        if self.behind and self.running:
            # A row that has ended rides along on its last token; what comes of it is not read.
            ids = torch.stack([answer.seen[-1:] for answer in self.answers])
            self.start = self.start.extend(self.language, ids)
        self.behind = False

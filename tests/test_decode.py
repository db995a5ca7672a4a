"""Decoding: filters and greedy search against transformers, sampling, ends."""

import pytest
import torch
from torch import Tensor
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests import tiny
from vlm.config import GenerationConfig
from vlm.decode import Answer, Decoding, next_token
from vlm.language import LanguageModel
from vlm.prefill import prefill
from vlm.splice import pad

ROWS = [[5, 6, 7, 8, 9], [40, 41], [100, 7, 120]]


@pytest.fixture(scope="module")
def language() -> LanguageModel:
    return tiny.language_model()


def generated(
    language: LanguageModel,
    rows: list[list[int]],
    end_ids: set[int] = frozenset(),
    **settings: object,
) -> list[list[int]]:
    """The new tokens of each row."""
    decoding = Decoding(language, end_ids)
    answers = begin(decoding, rows, **settings)
    while decoding.running:
        decoding.step()
    return [tokens(answer, row, end_ids) for answer, row in zip(answers, rows, strict=True)]


def begin(decoding: Decoding, rows: list[list[int]], **settings: object) -> list[Answer]:
    """Answers to rows that are prefilled together and join."""
    language, config = decoding.language, GenerationConfig(**settings)
    ids, mask = pad(rows, side="left")
    answers = [Answer(language, row, config) for row in rows]
    decoding.join(prefill(language, language.embed(ids), mask), answers)
    return answers


def tokens(answer: Answer, row: list[int], end_ids: set[int] = frozenset()) -> list[int]:
    """What was generated behind a row, without the end."""
    new = answer.seen[len(row) :].tolist()
    return new[:-1] if new[-1:] and new[-1] in end_ids else new


def random_logits(seed: int) -> Tensor:
    return 3 * torch.randn(50, generator=torch.Generator().manual_seed(seed))


def test_a_token_is_drawn_from_what_the_filters_leave_in_their_order() -> None:
    logits, seen = random_logits(0), torch.tensor([3, 17])
    config = GenerationConfig(temperature=1.7, top_k=8, top_p=0.8, repetition_penalty=1.2)
    left = logits[None].clone()
    for step in (
        RepetitionPenaltyLogitsProcessor(1.2),
        TemperatureLogitsWarper(1.7),
        TopKLogitsWarper(8),
        TopPLogitsWarper(0.8),
    ):
        left = step(seen[None], left)
    expected = torch.multinomial(
        left[0].softmax(dim=0), 20, replacement=True, generator=torch.Generator().manual_seed(4)
    )
    drawn = {next_token(logits, seen, config, torch.Generator().manual_seed(n)) for n in range(200)}
    assert drawn == set(left[0].isfinite().nonzero().flatten().tolist())
    assert set(expected.tolist()) <= drawn


def test_greedy_is_that_of_transformers(language: LanguageModel) -> None:
    for penalty in (1.0, 1.5):
        for row in ROWS:
            theirs = language.model.generate(
                torch.tensor([row]),
                do_sample=False,
                max_new_tokens=12,
                eos_token_id=None,
                pad_token_id=0,
                repetition_penalty=penalty,
            )
            ours = generated(language, [row], max_tokens=12, repetition_penalty=penalty)
            assert ours == [theirs[0, len(row) :].tolist()]


def test_greedy_on_embeddings_is_that_of_transformers(language: LanguageModel) -> None:
    ids, mask = pad(ROWS, side="left")
    theirs = language.model.generate(
        inputs_embeds=language.embed(ids),
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert generated(language, ROWS, max_tokens=12) == theirs.tolist()


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.5, "top_p": 0.9, "seed": 3}])
def test_a_row_is_the_same_alone_and_in_any_batch(
    language: LanguageModel, settings: dict[str, float]
) -> None:
    alone = [generated(language, [row], max_tokens=10, **settings)[0] for row in ROWS]
    assert generated(language, ROWS, max_tokens=10, **settings) == alone
    assert generated(language, ROWS[::-1], max_tokens=10, **settings) == alone[::-1]


def test_the_seed_decides_what_is_sampled(language: LanguageModel) -> None:
    def sample(seed: int) -> list[list[int]]:
        return generated(language, ROWS[:1], max_tokens=10, temperature=2.0, seed=seed)

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_an_end_id_stops_its_row_and_is_not_part_of_it(language: LanguageModel) -> None:
    whole = generated(language, ROWS, max_tokens=10)
    end = whole[0][2]
    cut = [row[: row.index(end)] if end in row else row for row in whole]
    assert len(cut[0]) <= 2 < max(map(len, cut))
    assert generated(language, ROWS, {end}, max_tokens=10) == cut


def test_no_more_than_max_tokens_and_no_forward_pass_too_many(language: LanguageModel) -> None:
    passes = []
    handle = language.model.register_forward_hook(lambda *_: passes.append(1))
    assert [len(row) for row in generated(language, ROWS, max_tokens=3)] == [3, 3, 3]
    handle.remove()
    assert len(passes) == 3


def test_a_row_ends_when_told_to(language: LanguageModel) -> None:
    decoding = Decoding(language, set())
    first, second = begin(decoding, ROWS[:2], max_tokens=5)
    assert [answer for answer, _ in decoding.step()] == [first, second]
    first.ended = True
    assert [answer for answer, _ in decoding.step()] == [second]
    second.ended = True
    assert decoding.step() == []
    assert (first.left, second.left) == (4, 3)

"""Beam search: transformers' own search, ends, and what it finds."""

import pytest
import torch

from tests import tiny
from vlm.beams import beam_search
from vlm.config import GenerationConfig
from vlm.errors import ConfigError
from vlm.language import LanguageModel
from vlm.prefill import prefill
from vlm.splice import pad

ROWS = [[5, 6, 7, 8, 9], [40, 41], [100, 7, 120]]


@pytest.fixture(scope="module")
def language() -> LanguageModel:
    """Logits far apart, so that no two beams tie."""
    language = tiny.language_model()
    language.model.get_output_embeddings().weight.data.mul_(20)
    return language


def found(
    language: LanguageModel, rows: list[list[int]], ends: set[int], beams: int, tokens: int
) -> list[list[int]]:
    ids, mask = pad(rows, side="left")
    return beam_search(language, prefill(language, language.embed(ids), mask), ends, beams, tokens)


def some_ends(language: LanguageModel) -> set[int]:
    """Tokens that answers do have early."""
    whole = found(language, ROWS, set(), beams=4, tokens=8)
    return {whole[0][2], whole[1][4], whole[2][1]}


@pytest.mark.parametrize("beams", [2, 3, 5])
@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize("ending", [False, True])
def test_it_is_that_of_transformers(
    language: LanguageModel, beams: int, tokens: int, ending: bool
) -> None:
    ends = some_ends(language) if ending else set()
    ids, mask = pad(ROWS, side="left")
    theirs = language.model.generate(
        inputs_embeds=language.embed(ids),
        attention_mask=mask,
        num_beams=beams,
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=0,
    ).tolist()
    ours = found(language, ROWS, ends, beams, tokens)
    for mine, other in zip(ours, theirs, strict=True):
        stop = next((at for at, token in enumerate(other) if token in ends), len(other))
        assert mine == other[:stop]


def test_a_search_as_wide_as_the_vocabulary_finds_the_most_probable(
    language: LanguageModel,
) -> None:
    row = torch.tensor([ROWS[0]])
    first = language.model(row).logits[0, -1].log_softmax(dim=-1)
    vocabulary = len(first)
    longer = torch.cat([row.expand(vocabulary, -1), torch.arange(vocabulary)[:, None]], dim=1)
    second = language.model(longer).logits[:, -1].log_softmax(dim=-1)
    best = int((first[:, None] + second).argmax())
    expected = [best // vocabulary, best % vocabulary]
    assert found(language, ROWS[:1], set(), beams=vocabulary, tokens=2) == [expected]


def test_a_row_is_the_same_alone_and_in_any_batch(language: LanguageModel) -> None:
    ends = some_ends(language)
    alone = [found(language, [row], ends, beams=3, tokens=9)[0] for row in ROWS]
    assert found(language, ROWS, ends, beams=3, tokens=9) == alone
    assert found(language, ROWS[::-1], ends, beams=3, tokens=9) == alone[::-1]


def test_a_model_answers_by_beams() -> None:
    model = tiny.vision_language_model()
    pairs = [(tiny.photo(0), "What is this?"), (tiny.photo(1), "A dog?")]
    answers = model.batch(pairs, beams=3, max_tokens=6)
    assert [model.chat(text, photo, beams=3, max_tokens=6) for photo, text in pairs] == answers
    assert all(answers)
    stop = answers[0][1:3]
    cut = model.batch(pairs[:1], beams=3, max_tokens=6, stop=[stop])[0]
    assert cut == answers[0][: answers[0].index(stop)]


@pytest.mark.parametrize("setting", [{"temperature": 0.5}, {"repetition_penalty": 1.2}])
def test_beams_do_not_sample(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="leave temperature at 0 and repetition_penalty at 1"):
        GenerationConfig(beams=2, **setting)

"""Answers that are decoded together join and leave; each is the same as alone, whatever its
neighbours do."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.test_llama import both, code  # noqa: F401
from vlm.chat_template import ChatTemplate
from vlm.config import GenerationConfig, ModelConfig
from vlm.decode import Answer, Decoding
from vlm.errors import ImageError
from vlm.language import LanguageModel
from vlm.model import VisionLanguageModel
from vlm.prefill import Language, prefill
from vlm.projector import Projector
from vlm.splice import pad

SMALL = {
    "vocab_size": len(tiny.tokenizer()),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": None,
}
OTHERS = {
    "a window": tf.MistralConfig(**SMALL, sliding_window=6),
    "a window in one layer": tf.Gemma3TextConfig(
        **SMALL,
        head_dim=8,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "convolutions": tf.Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
    "a recurrent state": tf.MambaConfig(
        **{name: SMALL[name] for name in ("vocab_size", "initializer_range", "pad_token_id")},
        hidden_size=32,
        num_hidden_layers=2,
    ),
}
WORDS = [
    "What?",
    "Who is there, and where is it all?",
    "A cat?",
    "Describe the image.",
    "How many?",
]
ENDS = set(range(0, 320, 9))

configs = st.builds(
    GenerationConfig,
    max_tokens=st.integers(1, 14),
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.5]),
    top_k=st.sampled_from([None, 40]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    stop=st.sampled_from([[], ["e"]]),
    seed=st.integers(0, 3),
)
prompts = st.lists(st.integers(4, 300), min_size=1, max_size=9)
arrivals = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.lists(st.tuples(prompts, configs), min_size=1, max_size=4),
        st.sets(st.integers(0, 3), max_size=1),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def languages(code: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Language]:  # noqa: F811
    """The same model as transformers computes it and as a `Llama`."""
    return list(both(code, tmp_path_factory.mktemp("llama"))[:2])


def begin(decoding: Decoding, asked: list[tuple[list[int], GenerationConfig]]) -> list[Answer]:
    """Answers to prompts that join together."""
    language = decoding.language
    ids, mask = pad([ids for ids, _ in asked], side="left")
    answers = [Answer(language, ids, config) for ids, config in asked]
    decoding.leave()
    decoding.join(prefill(language, language.embed(ids), mask), answers)
    return answers


def alone(language: Language, ids: list[int], config: GenerationConfig) -> Answer:
    decoding = Decoding(language, ENDS)
    (answer,) = begin(decoding, [(ids, config)])
    while decoding.running:
        decoding.step()
    return answer


@settings(max_examples=15)
@given(arrivals=arrivals)
def test_answers_join_and_leave_without_a_difference(
    languages: list[Language], arrivals: list[Any]
) -> None:
    for language in languages:
        decoding, said = Decoding(language, ENDS), {}
        asked, answers, given_up = [], [], []
        for steps, new, unwanted in arrivals:
            for _ in range(steps):
                for answer, piece in decoding.step():
                    said[answer] = said.get(answer, "") + piece
            for place in unwanted & set(range(len(decoding.running))):
                given_up.append(decoding.running[place])
                given_up[-1].ended = True
            asked += new
            answers += begin(decoding, new)
        while decoding.running:
            for answer, piece in decoding.step():
                said[answer] = said.get(answer, "") + piece
        for answer, (ids, config) in zip(answers, asked, strict=True):
            expected = alone(language, ids, config)
            if answer in given_up:
                assert expected.seen.tolist()[: len(answer.seen)] == answer.seen.tolist()
            else:
                assert answer.seen.tolist() == expected.seen.tolist()
                assert said[answer] == answer.text.sent == expected.text.sent


def test_a_cache_that_rows_join_and_leave_does_not_grow(languages: list[Language]) -> None:
    for language in languages:
        decoding, longest = Decoding(language, set()), 3 + 6
        for number in range(12):
            begin(decoding, [([5, 6, 7], GenerationConfig(max_tokens=4 + number % 3))])
            decoding.step()
            decoding.step()
            assert len(decoding.answers) <= 3
            assert decoding.start.attention_mask.shape[1] <= longest
            for layer in getattr(decoding.start.cache, "layers", []):
                assert layer.keys.shape[-2] <= longest


def model_of(language: Language) -> VisionLanguageModel:
    tower = tiny.clip_tower()
    torch.manual_seed(2)
    projector = Projector(ModelConfig().projector, tower, language.width)
    return VisionLanguageModel(ModelConfig(), tower, projector, language).eval()


def questions(groups: list[int]) -> list[tuple[Any, str]]:
    """So many questions about a photo, the next one and so on; those about none have none."""
    numbers = [number for number, count in enumerate(groups) for _ in range(count)]
    photos = [tiny.photo(number) if number % 4 != 3 else None for number in range(len(groups))]
    return [(photos[n], WORDS[place % 5] * (1 + n % 2)) for place, n in enumerate(numbers)]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.3, "seed": 5, "stop": ["e"]}])
def test_a_batch_is_refilled_without_a_difference(
    languages: list[Language], settings: dict[str, Any]
) -> None:
    settings = {"max_tokens": 10, "stop": ["a"], **settings}
    pairs = questions([1, 4, 1, 2, 7, 1, 1, 3])
    for language in languages:
        model = model_of(language)
        expected = [model.chat(text, photo, **settings) for photo, text in pairs]
        assert len({len(answer) for answer in expected}) > 3
        for size in (1, 3, 4, 7, 32):
            assert model.batch(pairs, batch_size=size, **settings) == expected


def test_places_are_filled_before_a_batch_has_ended(languages: list[Language]) -> None:
    groups, size = [1, 3, 1, 2, 1, 3, 1, 1, 1, 3, 2, 1], 4
    pairs = questions(groups)
    model, settings = model_of(languages[0]), {"max_tokens": 40, "stop": ["a"]}
    rows: list[int] = []
    images: list[int] = []
    layer = model.language.model.model.layers[0]
    layer.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    model.projector.register_forward_hook(lambda _, given, __: images.append(len(given[0])))
    passes = []
    for photo, text in pairs:
        model.chat(text, photo, **settings)
        passes.append(len(rows))
        rows.clear()
    images.clear()
    batches = [passes[start : start + size] for start in range(0, len(passes), size)]
    model.batch(pairs, size, **settings)
    assert max(rows) <= size
    # A group's photo, and the words behind it, are a pass each.
    assert len(rows) < sum(map(max, batches)) - len(batches)
    # Each photo is computed once, for all questions about it.
    assert sum(images) == sum(number % 4 != 3 for number in range(len(groups)))


def test_answers_come_before_all_questions_are_asked(languages: list[Language]) -> None:
    taken = []

    def asked() -> Iterator[tuple[Any, str] | ImageError]:
        yield ImageError("no photo")
        for pair in questions([1] * 20):
            taken.append(pair)
            yield pair

    answers = model_of(languages[0]).answers(asked(), 4, max_tokens=5)
    assert str(next(answers)) == "no photo"
    assert isinstance(next(answers), str)
    # Those that run, those that come next, and one to see that it is about another photo.
    assert len(taken) <= 4 + 1 + 1
    assert len([*answers]) == 19
    assert len(taken) == 20


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"beams": 2}])
def test_what_cannot_be_joined_is_answered_batch_by_batch(
    kind: str, settings: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(OTHERS[kind]).eval()
    model = model_of(LanguageModel(model.requires_grad_(False), ChatTemplate(tiny.tokenizer())))
    assert not model.language.keeps_all
    settings = {"max_tokens": 8, **settings}
    pairs = questions([1, 3, 1, 4])
    expected = [model.chat(text, photo, **settings) for photo, text in pairs]
    for size in (2, 4, 9):
        assert model.batch(pairs, batch_size=size, **settings) == expected

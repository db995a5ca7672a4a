"""Prefill: what questions about one photo begin with is computed once, and nothing else changes."""

from typing import Any

import pytest
import torch

from tests import tiny
from vlm.messages import with_images
from vlm.model import VisionLanguageModel
from vlm.prefill import prefill, shared_prefix
from vlm.prompt import Prompt

QUESTIONS = ["What is this?", "What is in the picture?", "Is it a cat?", "Describe the image."]


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vision_language_model()


def prompts(model: VisionLanguageModel, *pairs: tuple[Any, str]) -> list[Prompt]:
    return [model.prompt(with_images(text, images)) for images, text in pairs]


def about_two_photos(model: VisionLanguageModel) -> list[Prompt]:
    first, second = tiny.photo(0), tiny.photo(1)
    return prompts(
        model,
        (first, QUESTIONS[0]),
        (first, QUESTIONS[1]),
        (first, QUESTIONS[2]),
        (second, QUESTIONS[1]),
        ([first, second], QUESTIONS[3]),
        ([first, second], QUESTIONS[0]),
        (None, QUESTIONS[2]),
    )


def test_neighbours_about_the_same_images_share_their_beginning(
    model: VisionLanguageModel,
) -> None:
    whole = about_two_photos(model)
    beginnings, ends, numbers = shared_prefix(whole)
    assert numbers == [0, 0, 0, 1, 2, 2, 3]
    assert [len(beginning.images) for beginning in beginnings] == [1, 1, 2, 0]
    for prompt, end, number in zip(whole, ends, numbers, strict=True):
        assert beginnings[number].input_ids + end.input_ids == prompt.input_ids
        assert beginnings[number].image_slots == prompt.image_slots
        assert end.input_ids
        assert not end.images


def test_a_prompt_that_another_goes_on_from_keeps_a_token_of_its_own(
    model: VisionLanguageModel,
) -> None:
    (prompt,) = prompts(model, (tiny.photo(0), QUESTIONS[0]))
    beginnings, ends, _ = shared_prefix([prompt, prompt])
    assert len(beginnings) == 1
    assert [end.input_ids for end in ends] == [prompt.input_ids[-1:]] * 2


@pytest.mark.parametrize(
    "pairs",
    [
        [(tiny.photo(0), "What?"), (tiny.photo(1), "What?"), (tiny.photo(0), "Who?")],
        [(None, "What?"), (None, "Who?")],
    ],
    ids=["no neighbours", "no images"],
)
def test_nothing_is_shared_without_neighbours_about_the_same_images(
    model: VisionLanguageModel, pairs: list[tuple[Any, str]]
) -> None:
    assert shared_prefix(prompts(model, *pairs)) is None


def test_images_behind_what_prompts_have_in_common_are_not_shared(
    model: VisionLanguageModel,
) -> None:
    photo = {"type": "image", "image": tiny.photo(0)}
    talks = [
        [{"role": "user", "content": [{"type": "text", "text": text}, photo]}]
        for text in ("What?", "Who?")
    ]
    assert shared_prefix([model.prompt(talk) for talk in talks]) is None


def test_logits_are_those_of_prompts_alone(model: VisionLanguageModel) -> None:
    whole = about_two_photos(model)
    together = model._prefill(whole)
    alone = [prefill(model.language, *model._embed_prompts([prompt])) for prompt in whole]
    expected = torch.cat([each.logits for each in alone])
    assert torch.allclose(together.logits, expected, atol=1e-5)
    assert together.attention_mask.sum(dim=1).tolist() == list(map(len, whole))


def test_shared_tokens_are_computed_once(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    forward = model.language.forward

    def counting(embeddings: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        computed.append(embeddings.shape[:2].numel())
        return forward(embeddings, *rest, **more)

    monkeypatch.setattr(model.language, "forward", counting)
    whole = prompts(model, *((tiny.photo(0), text) for text in QUESTIONS))
    model._prefill(whole)
    own = max(map(len, whole)) - tiny.PATCHES
    assert sum(computed) <= tiny.PATCHES + len(whole) * own


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.3, "seed": 5}, {"beams": 3}])
def test_answers_are_those_of_questions_asked_alone(
    model: VisionLanguageModel, settings: dict[str, Any]
) -> None:
    pairs = [(tiny.photo(photo), text) for photo in range(3) for text in QUESTIONS]
    alone = [model.chat(text, photo, max_tokens=8, **settings) for photo, text in pairs]
    for size in (2, 5, 12):
        assert model.batch(pairs, batch_size=size, max_tokens=8, **settings) == alone

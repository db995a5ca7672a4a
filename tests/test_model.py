"""The whole model: answers do not depend on the batch, images are encoded once, the loss is
transformers' own."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import templates, tiny
from train.batch import Batch, collate
from train.loss import target_loss
from vlm.chat_template import ChatTemplate
from vlm.config import ProjectorConfig
from vlm.errors import ConfigError, ImageError, PromptError, WeightsError
from vlm.model import IMAGES_KEPT, VisionLanguageModel
from vlm.prompt import IMAGE_SLOT

A, B, C = (tiny.photo(seed) for seed in range(3))
QUESTIONS = [
    (A, "What is in the picture?"),
    (None, "Two dogs?"),
    ([B, C], "Describe the image, and the other one, at length."),
    ((C,), "A cat?"),
]


@pytest.fixture
def model() -> VisionLanguageModel:
    return tiny.vision_language_model()


@contextmanager
def tower_passes(model: VisionLanguageModel) -> Iterator[list[int]]:
    """The number of images in each pass of the vision tower."""
    passes: list[int] = []
    handle = model.vision.register_forward_hook(lambda _, given, __: passes.append(len(given[0])))
    yield passes
    handle.remove()


def content(*parts: Any) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]


def conversation(*parts: Any, answer: str = "A cat sits.") -> list[dict[str, Any]]:
    """A question of texts and images, and its answer."""
    return [
        {"role": "user", "content": content(*parts)},
        {"role": "assistant", "content": answer},
    ]


def training_batch(model: VisionLanguageModel, *talks: list[dict[str, Any]]) -> Batch:
    prompts = [model.prompt(talk, answer_next=False) for talk in talks]
    return collate(prompts, model.encode_images([i for p in prompts for i in p.images]))


TALKS = [
    conversation(A, "What is it?"),
    conversation("Two dogs?", answer="No."),
    conversation(B, "and", C, "Where?", answer="On the grass, at the beach."),
]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.5, "top_k": 50, "seed": 7}])
def test_an_answer_does_not_depend_on_its_batch(
    model: VisionLanguageModel, settings: dict[str, Any]
) -> None:
    alone = [
        model.chat(question, images, max_tokens=12, **settings) for images, question in QUESTIONS
    ]
    assert len(set(alone)) == len(alone)
    for size in (1, 3, 16):
        assert model.batch(QUESTIONS, batch_size=size, max_tokens=12, **settings) == alone
    assert model.batch(QUESTIONS[::-1], max_tokens=12, **settings) == alone[::-1]


def test_the_loss_of_a_batch_is_the_sum_of_its_rows(model: VisionLanguageModel) -> None:
    alone = [model(training_batch(model, talk), target_loss) for talk in TALKS]
    whole = model(training_batch(model, *TALKS), target_loss)
    assert whole.dtype == torch.float32
    assert whole.item() == pytest.approx(sum(alone).item(), rel=1e-5)


@pytest.mark.parametrize("talk", TALKS)
def test_the_loss_is_that_of_transformers(
    model: VisionLanguageModel, talk: list[dict[str, Any]]
) -> None:
    prompt = model.prompt(talk, answer_next=False)
    table = model.language.model.get_input_embeddings().weight
    image_tokens = iter(model.project(model.encode_images(prompt.images)).flatten(0, 1))
    rows = [next(image_tokens) if i == IMAGE_SLOT else table[i] for i in prompt.input_ids]
    labels = [
        i if mask else -100 for i, mask in zip(prompt.input_ids, prompt.loss_mask, strict=True)
    ]
    theirs = model.language.model(
        inputs_embeds=torch.stack(rows)[None], labels=torch.tensor([labels])
    )
    ours = model(training_batch(model, talk), target_loss)
    assert ours.item() / sum(prompt.loss_mask) == pytest.approx(theirs.loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "end"), [("llama-3", "<|eot_id|>"), ("glm", "</s>"), ("phi-3", "<|end|>")]
)
def test_an_answer_ends_where_training_taught_it_to(kind: str, end: str) -> None:
    tokenizer = templates.tokenizer("byte", kind)
    model = tiny.vision_language_model(template=ChatTemplate(tokenizer, "template"))
    # `</s>` is the end that the model and the tokenizer name themselves.
    assert model.language.end_ids() == {2, tokenizer.convert_tokens_to_ids(end)}
    talk = conversation(A, "What is in the picture?", answer="A cat sits.")
    optimizer = torch.optim.Adam(model.language.requires_grad_().parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(training_batch(model, talk), target_loss).backward()
        optimizer.step()
    for settings in ({}, {"beams": 3}):
        assert model.chat(talk[:1], max_tokens=50, **settings) == "A cat sits."
        questions = [(A, "What is in the picture?")]
        assert model.batch(questions, max_tokens=50, **settings) == ["A cat sits."]


def test_logits_are_those_of_the_spliced_conversation(model: VisionLanguageModel) -> None:
    prompt = model.prompt(TALKS[2])
    logits = model.logits(TALKS[2])
    assert logits.shape == (len(prompt), len(model.language.tokenizer))
    assert logits.dtype == torch.float32
    ids = torch.tensor([prompt.input_ids])
    image_tokens = model.project(model.encode_images([B, C])).flatten(0, 1)
    expected = model.language(model.embed(ids, [image_tokens]))[0]
    assert torch.allclose(logits, expected, atol=1e-5)


def test_pixel_values_train_like_their_patch_tokens(model: VisionLanguageModel) -> None:
    photo = tiny.photo()
    content = [{"type": "image", "image": photo}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A cat."}]
    prompts = [model.prompt(messages, answer_next=False)]
    pixel_values = model.vision.preprocessing.batch([photo])
    torch.testing.assert_close(
        model(collate(prompts, pixel_values), target_loss),
        model(collate(prompts, model.vision(pixel_values)), target_loss),
    )


def test_only_the_projector_learns(model: VisionLanguageModel) -> None:
    model.chat("What?", A, max_tokens=2)  # what was encoded for an answer can be trained on
    model(training_batch(model, *TALKS), target_loss).backward()
    assert all(p.grad is not None for p in model.projector.parameters())
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {
        "projector"
    }
    assert model.trained == {n for n in model.state_dict() if n.startswith("projector.")}


@pytest.mark.parametrize("kind", ["mlp", "resampler"])
def test_text_alone(kind: str) -> None:
    model = tiny.vision_language_model(ProjectorConfig(kind=kind, queries=4, heads=2))
    with tower_passes(model) as passes:
        assert model.chat("Two dogs?", max_tokens=4)
        assert model(training_batch(model, TALKS[1]), target_loss).isfinite()
    assert passes == []


def test_the_pieces_of_a_stream_are_the_answer(model: VisionLanguageModel) -> None:
    pieces = list(model.stream("What is it?", [A], max_tokens=12))
    assert len(pieces) > 3
    assert "".join(pieces) == model.chat("What is it?", [A], max_tokens=12)


def test_images_go_in_front_of_the_last_message(model: VisionLanguageModel) -> None:
    given = [*conversation(A, "What?"), {"role": "user", "content": "And these?"}]
    written = [*given[:2], {"role": "user", "content": content(B, C, "And these?")}]
    with_parts = [*given[:2], {"role": "user", "content": content("And these?")}]
    expected = model.chat(written, max_tokens=8)
    assert model.chat(given, [B, C], max_tokens=8) == expected
    assert model.chat(with_parts, (B, C), max_tokens=8) == expected
    assert model.chat(given, [C, B], max_tokens=8) != expected
    assert model.chat("What?", A, max_tokens=8) == model.chat("What?", [A], max_tokens=8)


def test_an_image_is_encoded_once(model: VisionLanguageModel) -> None:
    file = io.BytesIO()
    A.save(file, "PNG")
    with tower_passes(model) as passes:
        model.chat([*conversation(A, "What?"), {"role": "user", "content": "Where?"}])
        model.batch(
            [(A.copy(), "What?"), (file.getvalue(), "Where?"), (B, "And this?")], max_tokens=2
        )
    assert passes == [1, 1]
    again = tiny.vision_language_model().encode_images([B, A, B])
    assert torch.allclose(model.encode_images([B, A, B]), again, atol=1e-5)


def test_only_the_latest_images_are_remembered(model: VisionLanguageModel) -> None:
    images = [Image.new("RGB", (4, 4), (n, 0, 0)) for n in range(IMAGES_KEPT + 1)]
    with tower_passes(model) as passes:
        assert len(model.encode_images(images)) == IMAGES_KEPT + 1
        model.encode_images(images[-1:])
        model.encode_images(images[:1])
    assert passes == [IMAGES_KEPT + 1, 1]


def test_an_answer_ends_at_a_stop_string(model: VisionLanguageModel) -> None:
    whole = model.chat("What is it?", A, max_tokens=12)
    stop = whole[3:5]
    cut = whole[: whole.index(stop)]
    assert model.chat("What is it?", A, max_tokens=12, stop=["", stop]) == cut
    questions = [(A, "What is it?"), *QUESTIONS]
    assert model.batch(questions, max_tokens=12, stop=[stop])[0] == cut


def test_no_questions(model: VisionLanguageModel) -> None:
    assert model.batch([]) == []


@pytest.mark.parametrize("setting", ["max_tokens", "batch_size"])
def test_a_setting_out_of_range(model: VisionLanguageModel, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"^{setting} must be at least 1, not 0$"):
        model.batch(QUESTIONS, **{setting: 0})


@pytest.mark.parametrize("messages", [[], ["What?"], [{"role": "user", "content": None}]])
@pytest.mark.parametrize("images", [None, A])
def test_a_malformed_conversation(model: VisionLanguageModel, messages: Any, images: Any) -> None:
    with pytest.raises(PromptError, match=r"^(message 1|a conversation is)"):
        model.chat(messages, images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 5}, "no setting `max_new_tokens`: did you mean `max_tokens`?"),
        ({"image": A}, "no setting `image`: did you mean `images`?"),
        ({"do_sample": True}, "no setting `do_sample`: there are max_tokens, temperature, "),
        ({"max_tokens": "many"}, "max_tokens must be a whole number, not 'many'"),
    ],
)
def test_a_setting_that_there_is_not(
    model: VisionLanguageModel, settings: dict[str, Any], message: str
) -> None:
    for ask in (model.chat, lambda _, **settings: model.batch(QUESTIONS, **settings)):
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
            ask("What?", **settings)


def test_images_of_other_libraries_and_apis(model: VisionLanguageModel) -> None:
    file = io.BytesIO()
    A.save(file, "PNG")
    encoded = base64.b64encode(file.getvalue()).decode()
    url = f"data:image/png;base64,{encoded}"
    source = {"type": "base64", "media_type": "image/png", "data": encoded}
    expected = model.chat("What?", A, max_tokens=8)
    assert model.chat("What?", np.asarray(A), max_tokens=8) == expected
    assert model.batch([(np.asarray(A), "What?")] * 2, max_tokens=8) == [expected] * 2
    for part in (
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "image_url", "image_url": url},
        {"type": "image", "image": np.asarray(A)},
        {"type": "image", "source": source},
        {"type": "image", "url": url},
    ):
        content = [part, {"type": "text", "text": "What?"}]
        assert model.chat([{"role": "user", "content": content}], max_tokens=8) == expected


def test_a_batch_gives_errors_in_the_place_of_answers_when_asked(
    model: VisionLanguageModel,
) -> None:
    bad = [("missing.jpg", "What?"), (A, "a " * 600), (b"no image", "What?")]
    mixed = [bad[0], *QUESTIONS, *bad[1:]]
    with pytest.raises(ImageError, match=r"^cannot read 'missing\.jpg': No such file"):
        model.batch([bad[0], *QUESTIONS])
    for size in (1, 3, 16):
        first, *answers, long, damaged = model.batch(mixed, size, errors="return", max_tokens=8)
        assert answers == model.batch(QUESTIONS, max_tokens=8)
        assert (type(first), type(long), type(damaged)) == (ImageError, PromptError, ImageError)
    with pytest.raises(ConfigError, match=r"^errors must be raise or return, not 'ignore'$"):
        model.batch(QUESTIONS, errors="ignore")
    with pytest.raises(ConfigError, match=r"^batch takes pairs of images and question: \["):
        model.batch(["missing.jpg"])


@pytest.mark.parametrize("settings", [{}, {"beams": 2}, {"temperature": 1.0}])
@pytest.mark.parametrize("part", ["projector", "language"])
def test_weights_that_are_no_numbers(part: str, settings: dict[str, Any]) -> None:
    broken = tiny.vision_language_model()
    with torch.no_grad():
        next(getattr(broken, part).parameters()).fill_(float("nan"))
    told = "^what the model computes is not a number .*: its weights are damaged, or too large for"
    with pytest.raises(WeightsError, match=told):
        broken.chat("What?", A, **settings)
    with pytest.raises(WeightsError, match=told):
        broken.batch(QUESTIONS, errors="return", **settings)


def test_a_prompt_too_long_for_the_language_model(model: VisionLanguageModel) -> None:
    question = "a " * 100
    length = len(model.prompt(question))
    assert model.chat(question, max_tokens=1)
    with pytest.raises(PromptError) as raised:
        model.chat(question, max_tokens=512)
    assert str(raised.value) == (
        f"a prompt of {length} tokens and max_tokens=512 exceed the language model's 512 tokens: "
        "shorten the conversation or lower max_tokens"
    )
    with pytest.raises(PromptError, match="exceed the language model's 512 tokens"):
        model.logits("a " * 600)

"""Chat templates: which one is taken, and what it opens and ends an answer with."""

import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests import templates
from vlm.chat_template import FORMATS, ChatTemplate
from vlm.errors import PromptError
from vlm.prompt import IMAGE_SLOT, Prompt, build_prompt
from vlm.smollm2 import SMOLLM2
from vlm.sources import cache_dir

SCHEMES = ["byte", "always", "legacy", "first"]
TALK = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "On the grass."},
]


MARKS = [*templates.SPECIAL, *templates.ROLES, *templates.THOUGHTS, "<s>", "</s>"]
STRANGE = [*MARKS, "\ue0000\ue001", " ", "\n", "猫", "<|assistant", "|>"]


@functools.cache
def made(kind: str, scheme: str) -> ChatTemplate:
    own = kind in templates.TEMPLATES
    tokenizer = templates.tokenizer(scheme, kind if own else None)
    return ChatTemplate(tokenizer, "template" if own else kind)


def template(kind: str, scheme: str = "byte", prompt: str = "template") -> ChatTemplate:
    return ChatTemplate(templates.tokenizer(scheme, kind), prompt)


def learned(prompt: Prompt, tokenizer: Any) -> list[str]:
    """The runs of ids that are supervised, decoded."""
    runs: list[list[int]] = [[]]
    for number, own in zip(prompt.input_ids, prompt.loss_mask, strict=True):
        runs += [] if own or not runs[-1] else [[]]
        runs[-1] += [number] * own
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize(
    ("kind", "end", "supervised"),
    [
        ("llava-1.5", "</s>", [" A cat.", " On the grass.</s>"]),
        ("mistral", "</s>", [" A cat.</s>", " On the grass.</s>"]),
        ("llama-3", "<|eot_id|>", ["A cat.<|eot_id|>", "On the grass.<|eot_id|>"]),
        ("phi-3", "<|end|>", ["A cat.<|end|>", "On the grass.<|end|>"]),
        # The next question's name is not an answer's end.
        ("glm", "</s>", ["A cat.", "On the grass.</s>"]),
        ("r1", "</s>", ["A cat.</s>", "On the grass.</s>"]),
        ("qwen-3", "<|im_end|>", ["A cat.<|im_end|>", "On the grass.<|im_end|>"]),
        ("qwen-3.5", "<|im_end|>", ["A cat.<|im_end|>", "On the grass.<|im_end|>"]),
        ("nameless", "<|end|>", ["A cat.<|end|>", "On the grass.<|end|>"]),
    ],
)
def test_what_ends_an_answer_is_taught(kind: str, end: str, supervised: list[str]) -> None:
    found = template(kind)
    assert (found.end, found.tokenizer.convert_ids_to_tokens(found.end_id)) == (end, end)
    prompt = build_prompt(TALK, found, 2, answer_next=False)
    assert learned(prompt, found.tokenizer) == supervised
    assert prompt.loss_mask[-1] or kind in ("qwen-3", "qwen-3.5", "nameless", "phi-3")


@pytest.mark.parametrize(
    ("kind", "asked", "trained"),
    [
        ("r1", "<s><|user|>What is it?<|assistant|><think>\n", "<|assistant|><think>\nA cat.</s>"),
        (
            "qwen-3",
            "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n",
            "<|im_start|>assistant\nA cat.<|im_end|>\n",
        ),
        (
            "qwen-3.5",
            "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n<think>\n",
            "<|im_start|>assistant\n<think>\nA cat.<|im_end|>\n",
        ),
        # The template opens no answer: the one that it writes into a conversation opens both.
        ("nameless", "<|user|>What is it?<|end|>\n<|assistant|>", "<|assistant|>A cat.<|end|>\n"),
    ],
)
def test_an_answer_opens_in_training_as_in_use(kind: str, asked: str, trained: str) -> None:
    found = template(kind)
    decode = found.tokenizer.decode
    assert decode(build_prompt(TALK[:1], found, 2).input_ids) == asked
    assert decode(build_prompt(TALK[:2], found, 2, answer_next=False).input_ids).endswith(trained)


def test_openings_that_cannot_be_brought_together() -> None:
    text = (
        "{% for m in messages %}{{ m['content'] }}"
        "{{ messages | length if m['role'] == 'user' else eos_token }}{% endfor %}"
    )
    with pytest.raises(PromptError) as raised:
        template(text)
    assert str(raised.value) == (
        "the chat template opens an answer otherwise once it is given, so a model would be trained "
        "and used differently: choose language.prompt=chatml or vicuna"
    )


def test_a_template_that_leaves_out_an_image() -> None:
    text = (
        "{% for m in messages %}{% if m['content'][0]['type'] == 'image' %}<image>{% endif %}"
        "{{ m['content'][-1]['text'] }}{{ eos_token }}{% endfor %}"
    )
    found = template(text)
    image, words = {"type": "image", "image": "a.jpg"}, {"type": "text", "text": "What?"}
    assert len(build_prompt([{"role": "user", "content": [image, words]}], found, 2).images) == 1
    with pytest.raises(PromptError) as raised:
        build_prompt([{"role": "user", "content": [image, image, words]}], found, 2)
    assert str(raised.value) == "the chat template writes 1 of 2 images"


CHATML = FORMATS["chatml"]
SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
PHI_4 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)


@pytest.mark.parametrize("prompt", ["auto", "chatml"])
@pytest.mark.parametrize(
    ("own", "taken"),
    [
        (None, CHATML),
        (CHATML, CHATML),
        ("{{ bos_token }}" + CHATML, "{{ bos_token }}" + CHATML),
        (SYSTEM + CHATML, CHATML),
        ("{{ bos_token }}" + SYSTEM + CHATML, "{{ bos_token }}" + CHATML),
        ("qwen-3", CHATML),
        (PHI_4, {"auto": PHI_4, "chatml": CHATML}),
        ("{{ raise_exception('no chat') }}", CHATML),
    ],
)
def test_chatml_begins_as_the_tokenizers_own_does(own: str | None, taken: Any, prompt: str) -> None:
    tokenizer = templates.tokenizer("byte", own)
    expected = taken if isinstance(taken, str) else taken[prompt]
    assert ChatTemplate(tokenizer, prompt).text == expected


def test_the_bos_of_chatml() -> None:
    tokenizer = templates.tokenizer("byte", "{{ bos_token }}" + CHATML)
    text = tokenizer.decode(build_prompt("Hi", ChatTemplate(tokenizer), 2).input_ids)
    assert text == "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_smollm2_has_no_bos_nor_a_system_message_of_its_own() -> None:
    folder = cache_dir() / SMOLLM2
    if not folder.is_dir():
        pytest.skip("SmolLM2 is not in the cache")
    assert ChatTemplate(AutoTokenizer.from_pretrained(folder)).text == CHATML


@pytest.mark.parametrize("kind", [*templates.TEMPLATES, "chatml", "vicuna"])
@given(data=st.data())
def test_any_conversation(kind: str, data: Any) -> None:
    """Whatever is said, the same special tokens are written, and every answer is trained behind the
    ids that it is generated behind."""
    found = made(kind, data.draw(st.sampled_from(SCHEMES)))
    texts = st.lists(st.sampled_from(STRANGE) | st.text(max_size=3), max_size=3).map("".join)
    image = {"type": "image", "image": "a.jpg"}
    part = st.builds(lambda text: {"type": "text", "text": text}, texts) | st.just(image)
    talk, plain = [], []
    for _ in range(data.draw(st.integers(1, 3))):
        said, answer = data.draw(st.lists(part, min_size=1, max_size=3)), data.draw(texts)
        talk += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
        said = [{**each, "text": "a"} if each["type"] == "text" else each for each in said]
        plain += [{"role": "user", "content": said}, {"role": "assistant", "content": "a"}]
    prompt, spoken = (build_prompt(each, found, 2, answer_next=False) for each in (talk, plain))
    marks = set(found.tokenizer.all_special_tokens)
    if kind in ("phi-3", "glm", "r1", "nameless"):
        marks |= {"<|user|>", "<|assistant|>"}
    added = {found.vocabulary[mark] for mark in marks}
    assert [i for i in prompt.input_ids if i in added] == [
        i for i in spoken.input_ids if i in added
    ]
    assert prompt.input_ids.count(IMAGE_SLOT) == 2 * len(prompt.images)
    for turns in range(1, len(talk), 2):
        asked = build_prompt(talk[:turns], found, 2).input_ids
        assert prompt.input_ids[: len(asked)] == asked
        answer = prompt.loss_mask[len(asked) :]
        # An answer of one letter at least is taught from its beginning on.
        assert talk[turns]["content"].strip() == "" or answer[0]
    assert prompt.input_ids[-1 - prompt.loss_mask[::-1].index(True)] == found.end_id

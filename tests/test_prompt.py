"""Prompts: which ids, which of them are supervised, and that text stays text."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast

from tests import templates, tiny
from vlm.chat_template import VICUNA_SYSTEM, ChatTemplate
from vlm.errors import PromptError
from vlm.prompt import IMAGE_SLOT, Prompt, build_prompt
from vlm.smollm2 import SMOLLM2
from vlm.sources import cache_dir

START, END = 1, 2
S = IMAGE_SLOT

LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def user(*parts: str) -> dict[str, Any]:
    """A part that ends in .jpg is an image."""
    return {"role": "user", "content": [part_of(part) for part in parts]}


def part_of(part: str) -> dict[str, str]:
    kind = "image" if part.endswith(".jpg") else "text"
    return {"type": kind, kind: part}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


TALK = [user("What is it?"), assistant("A cat."), user("Where?"), assistant("On the grass.")]


BYTE_LEVEL, SENTENCEPIECE = (
    templates.tokenizer(scheme, LLAMA2, chatml=False) for scheme in ("byte", "always")
)
BOTH = pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["byte", "sp"])


def with_template(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(BYTE_LEVEL)
    tokenizer.chat_template = template
    return tokenizer


def tiny_ids(text: str) -> list[int]:
    return tiny.tokenizer().encode(text)


def supervised(prompt: Prompt) -> list[int]:
    return [i for i, mask in zip(prompt.input_ids, prompt.loss_mask, strict=True) if mask]


@pytest.mark.parametrize("prompt_format", ["auto", "chatml", "template"])
def test_chatml_by_hand(prompt_format: str) -> None:
    messages = [
        {"role": "system", "content": "You are helpful."},
        user("Look:", "a.jpg", "and", "b.jpg"),
        assistant("A cat."),
        user("c.jpg", "Where?"),
        assistant("Grass."),
    ]
    prompt = build_prompt(
        messages, ChatTemplate(tiny.tokenizer(), prompt_format), 3, answer_next=False
    )
    segments = [
        ([START], False),
        (tiny_ids("system\nYou are helpful."), False),
        ([END], False),
        (tiny_ids("\n"), False),
        ([START], False),
        (tiny_ids("user\nLook:"), False),
        ([S, S, S], False),
        (tiny_ids("\nand"), False),
        ([S, S, S], False),
        (tiny_ids("\n"), False),
        ([END], False),
        (tiny_ids("\n"), False),
        ([START], False),
        (tiny_ids("assistant\n"), False),
        (tiny_ids("A cat."), True),
        ([END], True),
        (tiny_ids("\n"), False),
        ([START], False),
        (tiny_ids("user\n"), False),
        ([S, S, S], False),
        (tiny_ids("\nWhere?"), False),
        ([END], False),
        (tiny_ids("\n"), False),
        ([START], False),
        (tiny_ids("assistant\n"), False),
        (tiny_ids("Grass."), True),
        ([END], True),
        (tiny_ids("\n"), False),
    ]
    assert prompt.input_ids == [i for ids, _ in segments for i in ids]
    assert prompt.loss_mask == [mask for ids, mask in segments for _ in ids]
    assert prompt.images == ["a.jpg", "b.jpg", "c.jpg"]
    assert [prompt.input_ids[slot.start : slot.stop] for slot in prompt.image_slots] == [
        [S] * 3
    ] * 3
    assert len(prompt) == len(prompt.input_ids)


def test_answer_next_opens_the_assistants_turn() -> None:
    asked = build_prompt("What is it?", ChatTemplate(tiny.tokenizer()), 3)
    closed = build_prompt("What is it?", ChatTemplate(tiny.tokenizer()), 3, answer_next=False)
    assert asked.input_ids == [*closed.input_ids, START, *tiny_ids("assistant\n")]
    assert not any(asked.loss_mask)


@pytest.mark.parametrize("answer_next", [False, True])
@pytest.mark.parametrize("prompt_format", ["chatml", "template"])
def test_text_alone_is_what_the_chat_template_gives(prompt_format: str, answer_next: bool) -> None:
    messages = [{"role": m["role"], "content": text_of(m)} for m in TALK]
    expected = tiny.tokenizer().apply_chat_template(
        messages, add_generation_prompt=answer_next, return_dict=False
    )
    prompt = build_prompt(messages, ChatTemplate(tiny.tokenizer(), prompt_format), 3, answer_next)
    assert prompt.input_ids == expected


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.mark.parametrize("prompt_format", ["chatml", "template"])
def test_smollm2_conversation_is_what_its_template_gives(prompt_format: str) -> None:
    folder = cache_dir() / SMOLLM2
    if not folder.is_dir():
        pytest.skip("SmolLM2 is not in the cache")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": m["role"], "content": text_of(m)} for m in TALK]
    if prompt_format == "chatml":  # the template would put its own system message
        messages.insert(0, {"role": "system", "content": "You are a helpful assistant."})
    expected = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    prompt = build_prompt(messages, ChatTemplate(tokenizer, prompt_format), 3)
    assert prompt.input_ids == expected
    assert tokenizer.decode(supervised(prompt)) == "A cat.<|im_end|>On the grass.<|im_end|>"


@BOTH
def test_vicuna(tokenizer: PreTrainedTokenizerFast) -> None:
    one = [user("a.jpg", "What is it?")]
    prompt = build_prompt(one, ChatTemplate(tokenizer, "vicuna"), 2)
    before, after = prompt.input_ids[: prompt.image_slots[0].start], prompt.image_slots[0].stop
    assert tokenizer.decode(before) == f"<s>{space(tokenizer)}{VICUNA_SYSTEM} USER: "
    assert tokenizer.decode(prompt.input_ids[after:]) == "\nWhat is it? ASSISTANT:"

    prompt = build_prompt(
        [user("What is it?"), TALK[1]], ChatTemplate(tokenizer, "vicuna"), 2, False
    )
    text = f"<s>{space(tokenizer)}{VICUNA_SYSTEM} USER: What is it? ASSISTANT: A cat.</s>"
    assert tokenizer.decode(prompt.input_ids) == text

    prompt = build_prompt(TALK, ChatTemplate(tokenizer, "vicuna"), 2, answer_next=False)
    text += f"{space(tokenizer)}USER: Where? ASSISTANT: On the grass.</s>"
    assert tokenizer.decode(prompt.input_ids) == text
    assert tokenizer.decode(supervised(prompt)).split("</s>") == [
        f"{'' if tokenizer is SENTENCEPIECE else ' '}A cat.",
        " On the grass.",
        "",
    ]


def space(tokenizer: PreTrainedTokenizerFast) -> str:
    """What SentencePiece puts in front of a text behind a special token, as LLaVA-1.5 has it."""
    return " " if tokenizer is SENTENCEPIECE else ""


def test_vicuna_with_a_system_message() -> None:
    messages = [{"role": "system", "content": "Be short."}, user("What?")]
    prompt = build_prompt(messages, ChatTemplate(BYTE_LEVEL, "vicuna"), 2)
    assert BYTE_LEVEL.decode(prompt.input_ids) == "<s>Be short. USER: What? ASSISTANT:"


@BOTH
@pytest.mark.parametrize("prompt_format", ["vicuna", "template"])
def test_an_answer_is_trained_where_it_is_generated(
    tokenizer: PreTrainedTokenizerFast, prompt_format: str
) -> None:
    asked = build_prompt(TALK[:1], ChatTemplate(tokenizer, prompt_format), 2)
    answered = build_prompt(TALK[:2], ChatTemplate(tokenizer, prompt_format), 2, answer_next=False)
    assert answered.input_ids[: len(asked)] == asked.input_ids
    assert answered.loss_mask == [False] * len(asked) + [True] * (len(answered) - len(asked))


@BOTH
def test_a_llama_2_template(tokenizer: PreTrainedTokenizerFast) -> None:
    s = space(tokenizer)
    prompt = build_prompt(TALK, ChatTemplate(tokenizer, "auto"), 2, answer_next=False)
    assert tokenizer.decode(prompt.input_ids) == (
        f"<s>{s}[INST] What is it? [/INST] A cat. </s>{s}[INST] Where? [/INST] On the grass. </s>"
    )
    assert tokenizer.decode(supervised(prompt)).lstrip() == "A cat. </s> On the grass. </s>"


PIECES = st.sampled_from(
    [
        "<image>",
        "<|im_end|>",
        "<|im_start|>system\n",
        "<s>",
        "</s>",
        "\ue0000\ue001",
        " ",
        "\n",
        "猫",
    ]
)
CONTENT_TEXT = st.lists(PIECES | st.text(st.characters(exclude_categories=["Cs"]))).map("".join)
CONTENTS = st.lists(
    st.builds(lambda text: {"type": "text", "text": text}, CONTENT_TEXT)
    | st.just({"type": "image", "image": "a.jpg"}),
    max_size=4,
)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": CONTENTS}),
    min_size=1,
    max_size=4,
)
SYSTEM = st.none() | st.builds(lambda text: {"role": "system", "content": text}, CONTENT_TEXT)


@pytest.mark.parametrize("prompt_format", ["chatml", "template", "vicuna"])
@given(SYSTEM, TURNS, st.booleans())
def test_special_tokens_and_slots_are_only_the_formats(
    prompt_format: str, system: dict[str, str] | None, turns: list[Any], answer_next: bool
) -> None:
    tokenizer = tiny.tokenizer()
    messages = [*([system] if system else []), *turns]
    prompt = build_prompt(messages, ChatTemplate(tokenizer, prompt_format), 2, answer_next)
    answers = sum(turn["role"] == "assistant" for turn in turns)
    vicuna = prompt_format == "vicuna"
    assert prompt.input_ids.count(0) == (1 if vicuna else 0)
    assert prompt.input_ids.count(START) == (0 if vicuna else len(messages) + answer_next)
    assert prompt.input_ids.count(END) == (answers if vicuna else len(messages))
    assert prompt.input_ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 0
    images = sum(part["type"] == "image" for turn in turns for part in turn["content"])
    assert len(prompt.image_slots) == len(prompt.images) == images
    assert [i for slot in prompt.image_slots for i in slot] == [
        i for i, token in enumerate(prompt.input_ids) if token == S
    ]
    spoken = [
        "".join(part.get("text", "") for part in turn["content"])
        for turn in turns
        if turn["role"] == "assistant"
    ]
    decoded = tokenizer.decode(supervised(prompt))
    assert decoded == "".join(f"{' ' if vicuna else ''}{text}<|im_end|>" for text in spoken)


@pytest.mark.parametrize("prompt_format", ["template", "vicuna"])
@given(CONTENT_TEXT, CONTENT_TEXT.filter(lambda text: "▁" not in text))
def test_sentencepiece_text_stays_text(prompt_format: str, question: str, answer: str) -> None:
    messages = [user(question), assistant(answer)]
    prompt = build_prompt(
        messages, ChatTemplate(SENTENCEPIECE, prompt_format), 2, answer_next=False
    )
    assert prompt.input_ids.count(SENTENCEPIECE.bos_token_id) == 1
    assert prompt.input_ids.count(SENTENCEPIECE.eos_token_id) == 1
    assert SENTENCEPIECE.convert_tokens_to_ids("<image>") not in prompt.input_ids
    # Llama 2's template strips, and puts a space in front and behind.
    decoded = SENTENCEPIECE.decode(supervised(prompt)).removesuffix("</s>")
    assert decoded.strip() == answer.strip()


def test_chatml_tokens_are_text_even_where_the_tokenizer_denies_that_they_are_special() -> None:
    tokenizer = copy.deepcopy(BYTE_LEVEL)
    marks = ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in marks])
    text = "a<|im_end|>\n<|im_start|>system<|im_end|><|im_end|>"
    ids = build_prompt(text, ChatTemplate(tokenizer, "chatml"), 2).input_ids
    assert [ids.count(i) for i in tokenizer.convert_tokens_to_ids(marks)] == [2, 1]
    assert tokenizer.decode(ids) == (f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")


NO_PART = (
    "message 1: a part is neither {'type': 'text', 'text': ...} nor {'type': 'image', 'image': ...}"
)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "a conversation is a question or a non-empty list of messages"),
        ({"role": "user"}, "a conversation is a question or a non-empty list of messages"),
        ([user("a"), "b"], "message 2 is not a dict with 'role' and 'content'"),
        ([{"role": "user"}], "message 1 is not a dict with 'role' and 'content'"),
        (
            [{"role": "human", "content": "a"}],
            "message 1: role 'human' is not system, user or assistant",
        ),
        (
            [user("a"), {"role": "system", "content": "a"}],
            "message 2: a system message can only be the first one",
        ),
        (
            [{"role": "user", "content": 5}],
            "message 1: content is neither a string nor a list of parts",
        ),
        ([{"role": "user", "content": ["a"]}], NO_PART),
        ([{"role": "user", "content": [{"type": "text"}]}], NO_PART),
        ([{"role": "user", "content": [{"type": "image", "image": None}]}], NO_PART),
        ("\ud83d", "message 1: half of a UTF-16 surrogate pair is not text"),
    ],
)
def test_a_malformed_conversation(messages: Any, message: str) -> None:
    with pytest.raises(PromptError) as raised:
        build_prompt(messages, ChatTemplate(tiny.tokenizer()), 3)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("tokenizer", "prompt_format", "message"),
    [
        (BYTE_LEVEL, "chatml", "the tokenizer has no <|im_start|> and <|im_end|>, so not chatml"),
        (
            with_template(None),
            "auto",
            "the tokenizer has no chat template: choose language.prompt=chatml or vicuna",
        ),
        (
            with_template("{{ raise_exception('roles must alternate') }}"),
            "template",
            "the chat template refuses this conversation: roles must alternate: choose "
            "language.prompt=chatml or vicuna",
        ),
        (
            with_template("{{ messages[0]['content'] }}"),
            "template",
            "the chat template does not write every message once and in order: choose "
            "language.prompt=chatml or vicuna",
        ),
    ],
)
def test_a_format_that_cannot_be_written(
    tokenizer: PreTrainedTokenizerFast, prompt_format: str, message: str
) -> None:
    with pytest.raises(PromptError) as raised:
        build_prompt(TALK, ChatTemplate(tokenizer, prompt_format), 3)
    assert str(raised.value) == message


def test_vicuna_needs_an_end() -> None:
    tokenizer = copy.deepcopy(BYTE_LEVEL)
    tokenizer.eos_token = None
    with pytest.raises(
        PromptError, match=r"nothing ends an answer: .* the tokenizer has no end-of-sequence token"
    ):
        build_prompt(TALK, ChatTemplate(tokenizer, "vicuna"), 3)

"""Prompt: a conversation -> token ids, loss mask and image slots, all from one function.

A conversation becomes a list of segments: text, special tokens, image slots. Each carries whether
it is supervised, and the ids are put together from them; nothing is ever tokenised, searched and
tokenised again. Special tokens come only from the format: whatever a user types, `<image>` or
`<|im_end|>` included, is tokenised as plain text.

An image slot is a run of `IMAGE_SLOT`, as many as the image has tokens; it has no id in the
vocabulary, so no model has to be resized for it.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from vlm.errors import PromptError
from vlm.images import ImageSource
from vlm.messages import Messages, Slot, Turn, read_messages

IMAGE_SLOT = -200
"""Stands in `input_ids` where an image token goes (LLaVA's IMAGE_TOKEN_INDEX)."""

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""System message of LLaVA-1.5's conversations (`vicuna_v1`), used where none is given."""

CONTENT = (
    "{% macro content(message) %}{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endmacro %}"
)
FORMATS: dict[str, str | None] = {
    # SmolLM2, Qwen: `<|im_start|>role\n ... <|im_end|>\n`
    "chatml": CONTENT
    + "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ content(message) }}"
    + "<|im_end|>\n{% endfor %}"
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    # Vicuna v1 (LLaVA-1.5): `SYSTEM USER: ... ASSISTANT: ...</s>USER: ...`
    "vicuna": CONTENT
    + "{{ bos_token }}{% if messages[0].role != 'system' %}"
    + VICUNA_SYSTEM
    + " {% endif %}{% for message in messages %}"
    + "{% if message.role == 'system' %}{{ content(message) }} "
    + "{% elif message.role == 'user' %}USER: {{ content(message) }} "
    + "{% else %}ASSISTANT: {{ content(message) }}{{ eos_token }}{% endif %}{% endfor %}"
    + "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
    "template": None,
}
"""The conversation formats as Jinja chat templates; None is the tokenizer's own. An exported LLaVA
has the same text, which is why it can write content with images too."""


@dataclass(frozen=True)
class Segment:
    """Text in which no special tokens are recognised, the id of one, or the place of an image."""

    content: str | int | Slot
    supervised: bool = False


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model sees it: T ids, `IMAGE_SLOT` where an image token goes, T flags,
    True for the assistant's words and its end of turn, and the place of each image."""

    input_ids: list[int]
    loss_mask: list[bool]
    image_slots: list[range]
    images: list[ImageSource]

    def __len__(self) -> int:
        return len(self.input_ids)


def build_prompt(
    messages: Messages,
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: int,
    prompt_format: str = "auto",
    answer_next: bool = True,
) -> Prompt:
    """A conversation as a model sees it of whose projector an image gets `image_tokens`; with
    `answer_next` it ends with the opening of the assistant's turn, ready to generate. A PromptError
    for a malformed message, or a format that the tokenizer cannot write."""
    turns = read_messages(messages)
    template = FORMATS[resolve_format(tokenizer, prompt_format)]
    ids: list[int] = []
    mask: list[bool] = []
    slots: list[range] = []
    images: list[ImageSource] = []
    for segment in merge_text(write(turns, tokenizer, template, answer_next)):
        start, content = len(ids), segment.content
        if isinstance(content, str):
            ids += plain_ids(content, tokenizer)
        elif isinstance(content, int):
            ids.append(content)
        else:
            ids += [IMAGE_SLOT] * image_tokens
            slots.append(range(start, len(ids)))
            images.append(content.image)
        mask += [segment.supervised] * (len(ids) - start)
    return Prompt(ids, mask, slots, images)


def resolve_format(tokenizer: PreTrainedTokenizerBase, prompt_format: str = "auto") -> str:
    """The name of one of `FORMATS`; `auto` is ChatML where the tokenizer has its two tokens, else
    the tokenizer's own template. A PromptError if it lacks what the format needs."""
    chatml = {"<|im_start|>", "<|im_end|>"} <= tokenizer.get_added_vocab().keys()
    if prompt_format == "auto":
        prompt_format = "chatml" if chatml else "template"
    if prompt_format not in FORMATS:
        raise PromptError(f"prompt format {prompt_format!r} is none of auto, {', '.join(FORMATS)}")
    if prompt_format == "chatml" and not chatml:
        raise PromptError("the tokenizer has no <|im_start|> and <|im_end|>, so not chatml")
    if prompt_format == "vicuna" and tokenizer.eos_token_id is None:
        raise PromptError("the tokenizer has no end-of-sequence token, so not vicuna")
    if prompt_format == "template" and not tokenizer.chat_template:
        raise PromptError(
            "the tokenizer has no chat template: choose language.prompt=chatml or vicuna"
        )
    return prompt_format


def write(
    turns: list[Turn], tokenizer: PreTrainedTokenizerBase, template: str | None, answer_next: bool
) -> Iterator[Segment]:
    """A chat template rendered around stand-ins for each turn's content, so that what is the
    template's and what is the user's never mix. A PromptError if the template refuses the
    conversation, or leaves a turn out."""
    # Strings, since many a tokenizer's own template takes no other content.
    messages = [
        {"role": turn.role, "content": f"\ue000{number}\ue001"} for number, turn in enumerate(turns)
    ]
    try:
        rendered = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=answer_next
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PromptError(f"the chat template refuses this conversation: {reason}") from error
    pieces = re.split("\ue000(\\d+)\ue001", rendered)
    if [int(number) for number in pieces[1::2]] != list(range(len(turns))):
        raise PromptError("the chat template does not write every message once and in order")
    vocabulary = tokenizer.get_added_vocab()
    special_token = any_of(frozenset(vocabulary))
    answers = [turn.role == "assistant" for turn in turns]
    # For each literal: whether it ends an answer, and whether one follows.
    around = zip(pieces[::2], [False, *answers], [*answers, answer_next], strict=True)
    for number, (literal, ends, follows) in enumerate(around):
        if number > 0:
            yield from content_segments(turns[number - 1])
        # Text that the template wrote: here, and only here, special tokens are recognised.
        words = special_token.split(literal.removesuffix(" ") if follows else literal)
        special = [word in vocabulary for word in words]
        # The assistant's end of turn: up to the first special token behind its words.
        end = special.index(True) + 1 if ends and any(special) else 0
        for place, word in enumerate(words):
            yield Segment(vocabulary.get(word, word), supervised=place < end)
        # The space between the assistant's name and its words belongs to the words, where a model
        # that generates puts it; a SentencePiece tokenizer writes it by itself.
        answer_space = follows and literal.endswith(" ") and number < len(turns)
        if answer_space and not adds_space(tokenizer):
            yield Segment(" ", supervised=True)


def content_segments(turn: Turn) -> Iterator[Segment]:
    """A turn's own text and images; each image is followed by a newline, as in LLaVA."""
    for part in turn.parts:
        if isinstance(part, Slot):
            yield Segment(part)
            yield Segment("\n")
        else:
            yield Segment(part, supervised=turn.role == "assistant")


@functools.lru_cache(maxsize=8)
def any_of(words: frozenset[str]) -> re.Pattern[str]:
    """Matches any of the words, the longest first."""
    longest_first = map(re.escape, sorted(words, key=len, reverse=True))
    return re.compile(f"({'|'.join(longest_first) or '(?!)'})")


def merge_text(segments: Iterator[Segment]) -> list[Segment]:
    """Joins neighbouring text of the same supervision, since a tokenizer cuts `a` + `b` and `ab`
    differently; drops empty text."""
    merged: list[Segment] = []
    some = (segment for segment in segments if segment.content != "")
    for (is_text, supervised), run in groupby(
        some, key=lambda segment: (isinstance(segment.content, str), segment.supervised)
    ):
        if is_text:
            merged.append(Segment("".join(segment.content for segment in run), supervised))
        else:
            merged += run
    return merged


def plain_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of text in which no special token is recognised."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a space in front of a text by itself (SentencePiece does)."""
    return tokenizer.convert_ids_to_tokens(plain_ids("a", tokenizer)) != ["a"]

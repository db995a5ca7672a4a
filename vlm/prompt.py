"""Prompt: a conversation -> token ids, loss mask and image slots, all from one function.

A conversation becomes a list of segments: text, special tokens, image slots. Each carries whether
it is supervised, and the ids are put together from them; nothing is ever tokenised, searched and
tokenised again. Special tokens come only from the format: whatever a user types, `<image>` or
`<|im_end|>` included, is tokenised as plain text.

An image slot is a run of `IMAGE_SLOT`, as many as the image has tokens; it has no id in the
vocabulary, so no model has to be resized for it.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.text import Text as RichText
from transformers import PreTrainedTokenizerBase

from vlm.errors import PromptError
from vlm.images import ImageSource

IMAGE_SLOT = -200
"""Stands in `input_ids` where an image token goes (LLaVA's IMAGE_TOKEN_INDEX)."""

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""System message of LLaVA-1.5's conversations (`vicuna_v1`), used where none is given."""


@dataclass(frozen=True)
class Text:
    """Plain text; special tokens inside it are not recognised."""

    text: str
    supervised: bool = False


@dataclass(frozen=True)
class Special:
    """One special token."""

    id: int
    supervised: bool = False


@dataclass(frozen=True)
class Slot:
    """The place of one image."""

    image: ImageSource


Segment = Text | Special | Slot


@dataclass(frozen=True)
class Turn:
    """One message: who says it, and its text and images in order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Slot, ...]


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model sees it.

    Attributes:
        input_ids: T token ids, `IMAGE_SLOT` where an image token goes.
        loss_mask: T flags: True for the assistant's words and its end of turn.
        image_slots: where each image's tokens lie, in prompt order.
        images: the image of each slot.
    """

    input_ids: list[int]
    loss_mask: list[bool]
    image_slots: list[range]
    images: list[ImageSource]

    def __len__(self) -> int:
        return len(self.input_ids)


def build_prompt(
    messages: str | Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: int | Sequence[int],
    prompt_format: str = "auto",
    answer_next: bool = True,
) -> Prompt:
    """Turns a conversation into token ids, loss mask and image slots.

    Args:
        messages: `{"role": ..., "content": ...}` each, content being a string or a list of
            `{"type": "text", "text": ...}` and `{"type": "image", "image": ...}`; a lone string is
            one user message.
        tokenizer: of the language model.
        image_tokens: tokens that each image gives: one number, or one for each image in order.
        prompt_format: `chatml`, `vicuna`, `template` or `auto` (see `resolve_format`).
        answer_next: end with the opening of the assistant's turn, ready to generate.

    Raises:
        PromptError: a malformed message, or a format that the tokenizer cannot write.
    """
    turns = read_messages(messages)
    write = FORMATS[resolve_format(tokenizer, prompt_format)]
    segments = merge_text(write(turns, tokenizer, answer_next))
    count = sum(isinstance(segment, Slot) for segment in segments)
    counts = [image_tokens] * count if isinstance(image_tokens, int) else list(image_tokens)
    if len(counts) != count:
        raise PromptError(f"the prompt has {count} images but {len(counts)} token counts")
    ids: list[int] = []
    mask: list[bool] = []
    slots: list[range] = []
    images: list[ImageSource] = []
    for segment in segments:
        start = len(ids)
        if isinstance(segment, Text):
            ids += plain_ids(segment.text, tokenizer)
        elif isinstance(segment, Special):
            ids.append(segment.id)
        else:
            ids += [IMAGE_SLOT] * counts[len(slots)]
            slots.append(range(start, len(ids)))
            images.append(segment.image)
        mask += [not isinstance(segment, Slot) and segment.supervised] * (len(ids) - start)
    return Prompt(ids, mask, slots, images)


def read_messages(messages: str | Sequence[dict[str, Any]]) -> list[Turn]:
    """Checks a conversation and brings it to one shape.

    Raises:
        PromptError: names the message and what is wrong with it.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not messages:
        raise PromptError("a conversation is a question or a non-empty list of messages")
    turns = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise PromptError(f"message {number} is not a dict with 'role' and 'content'")
        role, content = message["role"], message["content"]
        if role not in ("system", "user", "assistant"):
            raise PromptError(f"message {number}: role {role!r} is not system, user or assistant")
        if role == "system" and number > 1:
            raise PromptError(f"message {number}: a system message can only be the first one")
        parts = tuple(read_content(content, number))
        if any(isinstance(part, str) and re.search("[\ud800-\udfff]", part) for part in parts):
            raise PromptError(f"message {number}: half of a UTF-16 surrogate pair is not text")
        turns.append(Turn(role, parts))
    return turns


def read_content(content: Any, number: int) -> Iterator[str | Slot]:
    """The parts of one message's content, see `read_messages`."""
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, Sequence):
        raise PromptError(f"message {number}: content is neither a string nor a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield part["text"]
        elif kind == "image" and part.get("image") is not None:
            yield Slot(part["image"])
        else:
            raise PromptError(
                f"message {number}: a part is neither {{'type': 'text', 'text': ...}} "
                "nor {'type': 'image', 'image': ...}"
            )


def resolve_format(tokenizer: PreTrainedTokenizerBase, prompt_format: str = "auto") -> str:
    """`auto` is ChatML where the tokenizer has its two tokens, else the tokenizer's own template.

    Raises:
        PromptError: the tokenizer has neither, or not what the format asked for needs.
    """
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


def chatml(
    turns: list[Turn], tokenizer: PreTrainedTokenizerBase, answer_next: bool
) -> Iterator[Segment]:
    """ChatML (SmolLM2, Qwen): `<|im_start|>role\\n ... <|im_end|>\\n`."""
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    for turn in turns:
        yield Special(start)
        yield Text(f"{turn.role}\n")
        yield from content_segments(turn)
        yield Special(end, supervised=turn.role == "assistant")
        yield Text("\n")
    if answer_next:
        yield Special(start)
        yield Text("assistant\n")


def vicuna(
    turns: list[Turn], tokenizer: PreTrainedTokenizerBase, answer_next: bool
) -> Iterator[Segment]:
    """Vicuna v1 (LLaVA-1.5): `SYSTEM USER: ... ASSISTANT: ...</s>USER: ...`."""
    if tokenizer.bos_token_id is not None:
        yield Special(tokenizer.bos_token_id)
    if turns[0].role != "system":
        yield Text(f"{VICUNA_SYSTEM} ")
    for turn in turns:
        if turn.role == "system":
            yield from content_segments(turn)
            yield Text(" ")
        elif turn.role == "user":
            yield Text("USER: ")
            yield from content_segments(turn)
            yield Text(" ")
        else:
            yield Text("ASSISTANT:")
            yield from answer_space(tokenizer)
            yield from content_segments(turn)
            yield Special(tokenizer.eos_token_id, supervised=True)
    if answer_next:
        yield Text("ASSISTANT:")


def template(
    turns: list[Turn], tokenizer: PreTrainedTokenizerBase, answer_next: bool
) -> Iterator[Segment]:
    """The tokenizer's own chat template, rendered around stand-ins for each turn's content, so that
    what is the template's and what is the user's never mix.

    Raises:
        PromptError: the template refuses the conversation, or leaves a turn out.
    """
    messages = [
        {"role": turn.role, "content": f"\ue000{number}\ue001"} for number, turn in enumerate(turns)
    ]
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer_next
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PromptError(f"the chat template refuses this conversation: {reason}") from error
    pieces = re.split("\ue000(\\d+)\ue001", rendered)
    if [int(number) for number in pieces[1::2]] != list(range(len(turns))):
        raise PromptError("the chat template does not write every message once and in order")
    answers = [turn.role == "assistant" for turn in turns]
    # For each literal: whether it ends an answer, and whether one follows.
    around = zip(pieces[::2], [False, *answers], [*answers, answer_next], strict=True)
    for number, (literal, ends, follows) in enumerate(around):
        if number > 0:
            yield from content_segments(turns[number - 1])
        segments = list(
            literal_segments(literal.removesuffix(" ") if follows else literal, tokenizer)
        )
        special = [isinstance(segment, Special) for segment in segments]
        # The assistant's end of turn: up to the first special token behind its words.
        end = special.index(True) + 1 if ends and any(special) else 0
        yield from (replace(segment, supervised=True) for segment in segments[:end])
        yield from segments[end:]
        if follows and literal.endswith(" ") and number < len(turns):
            yield from answer_space(tokenizer)


FORMATS: dict[str, Callable[[list[Turn], PreTrainedTokenizerBase, bool], Iterator[Segment]]] = {
    "chatml": chatml,
    "vicuna": vicuna,
    "template": template,
}


def content_segments(turn: Turn) -> Iterator[Segment]:
    """A turn's own text and images; each image is followed by a newline, as in LLaVA."""
    supervised = turn.role == "assistant"
    for part in turn.parts:
        if isinstance(part, Slot):
            yield part
            yield Text("\n")
        else:
            yield Text(part, supervised)


def answer_space(tokenizer: PreTrainedTokenizerBase) -> Iterator[Text]:
    """The space between the assistant's name and its words. It belongs to the words, where a model
    that generates puts it; a SentencePiece tokenizer writes it by itself."""
    if not adds_space(tokenizer):
        yield Text(" ", supervised=True)


def literal_segments(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[Text | Special]:
    """Text that the format wrote: here, and only here, special tokens are recognised."""
    vocabulary = tokenizer.get_added_vocab()
    if not vocabulary:
        yield Text(text)
        return
    for piece in any_of(frozenset(vocabulary)).split(text):
        if piece in vocabulary:
            yield Special(vocabulary[piece])
        else:
            yield Text(piece)


@functools.lru_cache(maxsize=8)
def any_of(words: frozenset[str]) -> re.Pattern[str]:
    """Matches any of the words, the longest first."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})")


def merge_text(segments: Iterator[Segment]) -> list[Segment]:
    """Joins neighbouring text of the same supervision, since a tokenizer cuts `a` + `b` and `ab`
    differently; drops empty text."""
    merged: list[Segment] = []
    for segment in segments:
        last = merged[-1] if merged else None
        if isinstance(segment, Text) and not segment.text:
            continue
        if (
            isinstance(segment, Text)
            and isinstance(last, Text)
            and segment.supervised == last.supervised
        ):
            merged[-1] = Text(last.text + segment.text, last.supervised)
        else:
            merged.append(segment)
    return merged


def plain_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of text in which no special token is recognised."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a space in front of a text by itself (SentencePiece does)."""
    return tokenizer.convert_ids_to_tokens(plain_ids("a", tokenizer)) != ["a"]


def show_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> RichText:
    """The sequence for a person to read: supervised tokens in green, each image slot as
    `<image x49>`. Print it with rich."""
    shown = RichText()
    slot_at = {position: slot for slot in prompt.image_slots for position in slot}
    # Decoded in runs: the bytes of one character may be spread over several tokens.
    for (slot, supervised), run in itertools.groupby(
        range(len(prompt)), key=lambda i: (slot_at.get(i), prompt.loss_mask[i])
    ):
        if slot is not None:
            shown.append(f"<image x{len(slot)}>", style="bold magenta")
        else:
            text = tokenizer.decode([prompt.input_ids[position] for position in run])
            shown.append(text, style="green" if supervised else "dim")
    return shown

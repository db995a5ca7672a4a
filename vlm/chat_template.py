"""Chat template: what is written around the texts of a conversation, and where its images go.

A template is a program that came with the weights: it takes contents as strings or as lists of
parts, places images or leaves that to us, and opens and ends an answer in its own way. Which of
these it does is found out once, from short conversations that it is given to write.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING

from vlm.errors import PromptError
from vlm.messages import Slot, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
FORMATS = {
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
}
"""Our own conversation formats, each a Jinja chat template that takes strings and parts."""

IN_ONE = (
    CONTENT + "{% set one = namespace(messages=[]) %}{% for message in messages %}"
    "{% set one.messages = one.messages + [{'role': message.role, 'content': CONTENT}] %}"
    "{% endfor %}{% set messages = one.messages %}"
)
"""In front of a template that places no images: what it is given has them in its texts."""

CHATML = {"<|im_start|>", "<|im_end|>"}

FORMS = (("images", "parts"), ("images", "string"), ("string", "string"), ("parts", "parts"))
"""How a template may take the content of a user's and of another's turn, the best first: as parts
of which it places the images too, or as one text, in a part or bare, with the images in it."""

SYSTEM, QUESTION, ANSWER = (Turn(role, ("x",)) for role in ("system", "user", "assistant"))
SEEN = Turn("user", (Slot(None), "x"))


@dataclass(frozen=True)
class Words:
    """What a template writes its own around: text of one turn, with the images that it does not
    place."""

    answer: bool
    parts: list[str | Slot]


@dataclass(frozen=True)
class Written:
    """A conversation as the template writes it: a literal, words, a literal, words ... a literal,
    the images whose places are in the literals, in order, and whether the tokenizer's BOS goes in
    front of it all."""

    literals: list[str]
    words: list[Words]
    placed: list[Slot]
    adds_bos: bool


class ChatTemplate:
    """How conversations with one language model are written.

    Attributes:
        text: the template in Jinja.
        image: what it writes where an image goes.
        end: the token that ends an answer: the first one that it writes behind one, else the
            tokenizer's own (`ends_itself` is False then).
        space: whitespace that an answer begins with, since the opening of one to come lacks it.
        marks: finds where text has a token that marks turns, but is not special to the tokenizer.
        swallows_left, swallows_right: special tokens that swallow the whitespace beside them.
        adds_space: whether the tokenizer puts a space in front of text by itself (SentencePiece
            does), and with `only_first` at the very beginning alone.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", prompt: str = "auto", processor: bool = False
    ) -> None:
        """The template that a setting names: one of `FORMATS`; the tokenizer's own for `template`,
        with the tokenizer's BOS in front where it is used as a LLaVA's `processor` would; or the
        one that `choose` takes for `auto`. A PromptError if the tokenizer lacks what it needs, or
        the template cannot be followed."""
        self.tokenizer = tokenizer
        self.text = choose(tokenizer, prompt)
        self.image: str = getattr(tokenizer, "image_token", "<image>")
        self.vocabulary = tokenizer.get_added_vocab()
        self.adds_bos = processor and tokenizer.encode("")[:1] == [tokenizer.bos_token_id]
        self._tokens = re.compile(f"({any_of({*self.vocabulary, self.image})})")
        self._name = ""
        self._given: list[str] = []
        self._opening = ""
        self._padding = ""
        self._strips: dict[str, tuple[bool, bool]] = {}
        self._form = self._find_form()
        self._strips = self._find_strips()
        self.space = self._find_opening()
        self.ends_itself, self.end = self._find_end()
        self.end_id: int = tokenizer.convert_tokens_to_ids(self.end)
        self.marks = self._find_marks()
        tokens = tokenizer.added_tokens_decoder.items()
        self.swallows_left = {number for number, token in tokens if token.lstrip}
        self.swallows_right = {number for number, token in tokens if token.rstrip}
        a = plain_ids("a", tokenizer)
        self.adds_space = tokenizer.convert_ids_to_tokens(a) != ["a"]
        behind_token = tokenizer.encode(self.end + "a", add_special_tokens=False)[1:]
        # LLaVA-1.5's own code encodes the text behind an image as if nothing were before it.
        self.only_first = self.adds_space and prompt != "vicuna" and behind_token != a

    def write(self, turns: list[Turn], answer_next: bool) -> Written:
        """Writes a conversation, every answer opened as the template opens one that is to come. A
        PromptError if the template refuses it, or leaves something out."""
        messages, words, placed = self._fill(turns)
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages,
                chat_template=self.text,
                tokenize=False,
                add_generation_prompt=answer_next,
            )
        except Exception as error:
            reason = " ".join(str(error).split())
            raise PromptError(
                f"the chat template refuses this conversation: {reason:.200}"
            ) from error
        pieces = re.split("\ue000(\\d+)\ue001", rendered)
        if [int(number) for number in pieces[1::2]] != list(range(len(words))):
            raise PromptError("the chat template does not write every message once and in order")
        literals = pieces[::2]
        found = sum(literal.count(self.image) for literal in literals)
        if found != len(placed):
            raise PromptError(f"the chat template writes {found} of {len(placed)} images")
        for number, each in enumerate(words):
            if each.answer:
                literals[number] = self._opened(literals[number])
        if answer_next:
            literals[-1] += self._name
        bos = self.adds_bos and not rendered.startswith(self.tokenizer.bos_token)
        return Written(literals, words, placed, bos)

    def for_processor(self) -> str:
        """The template as transformers' processor needs it, which gives contents as parts."""
        text = self.text
        if self._form[0] != "images":
            content = "content(message)"
            if self._form[0] == "parts":
                content = f"[{{'type': 'text', 'text': {content}}}]"
            text = IN_ONE.replace("CONTENT", content) + text
        if self._name:
            text += (
                f"{{% if add_generation_prompt %}}{{{{ {json.dumps(self._name)} }}}}{{% endif %}}"
            )
        return text

    def split(self, literal: str) -> list[str]:
        """A literal cut into the tokens in it, and the text between them."""
        return [word for word in self._tokens.split(literal) if word]

    def _fill(self, turns: list[Turn]) -> tuple[list[dict], list[Words], list[Slot]]:
        """Messages with stand-ins for the words, so that what is the template's and what is the
        user's never mix; the words, and the images that the template is to place."""
        messages, words, placed = [], [], []
        for turn in turns:
            form = self._form[turn.role != "user"]
            content = []
            for part in turn.parts if form == "images" else [turn.parts]:
                if isinstance(part, Slot):
                    placed.append(part)
                    content.append({"type": "image"})
                else:
                    mark = f"{self._padding}\ue000{len(words)}\ue001{self._padding}"
                    content.append({"type": "text", "text": mark})
                    parts = list(part) if isinstance(part, tuple) else [part]
                    left, right = self._strips.get(turn.role, (False, False))
                    if left and parts and isinstance(parts[0], str):
                        parts[0] = parts[0].lstrip()
                    if right and parts and isinstance(parts[-1], str):
                        parts[-1] = parts[-1].rstrip()
                    words.append(Words(turn.role == "assistant", parts))
            text = content[0]["text"] if form == "string" else content
            messages.append({"role": turn.role, "content": text})
        return messages, words, placed

    def _opened(self, literal: str) -> str:
        """What stands before an answer that is given, as before one that is to come."""
        for given in self._given:
            if literal.endswith(given) and (given or not literal.endswith(self._opening)):
                return literal.removesuffix(given) + self._opening
        return literal

    def _find_form(self) -> tuple[str, str]:
        """The first of `FORMS` in which the template writes a question and an answer."""
        errors = {}
        for form in FORMS:
            self._form = form
            try:
                self.write([SEEN, ANSWER], answer_next=False)
                self.write([SEEN], answer_next=True)
                return form
            except PromptError as error:
                errors[form] = error
        error = errors["string", "string"]
        raise PromptError(f"{error}: choose language.prompt=chatml or vicuna") from error

    def _find_strips(self) -> dict[str, tuple[bool, bool]]:
        """For each role, whether the template strips whitespace before its text, and behind."""
        strips = {}
        self._padding = "\n \n"
        for talk in ([SYSTEM, QUESTION], [QUESTION, ANSWER]):
            with suppress(PromptError):  # There are templates without system messages.
                around = pairwise(self.write(talk, answer_next=False).literals)
                for turn, (before, after) in zip(talk, around, strict=True):
                    kept = before.endswith(self._padding), after.startswith(self._padding)
                    strips[turn.role] = not kept[0], not kept[1]
        self._padding = ""
        return strips

    def _find_opening(self) -> str:
        """Compares how the template opens an answer that is given and one that is to come, and
        has the second for both: Qwen3's and R1's write thoughts into only one of them. Returns the
        whitespace that is only in the first."""
        talk = [QUESTION, ANSWER, QUESTION, ANSWER]
        given = [self.write(talk[:2], answer_next=False).literals[1]]
        with suppress(PromptError):  # There are templates for one question only.
            given.append(self.write(talk, answer_next=False).literals[1])
        to_come = self.write([QUESTION], answer_next=True).literals[1]
        unopened = self.write([QUESTION], answer_next=False).literals[1]
        name = given[0].removeprefix(to_come) if given[0].startswith(to_come) else ""
        if to_come == unopened and name.strip():
            # The template opens no answer to come: the model would have to name itself first.
            self._name = name
        opening = to_come + self._name
        alike = takewhile(lambda letters: len({*letters}) == 1, zip(*given, opening, strict=False))
        shared = len(list(alike))
        self._given = sorted({each[shared:] for each in given}, key=len, reverse=True)
        self._opening = opening[shared:]
        if len(given) > 1:
            whole = self.write(talk, answer_next=False).literals
            parts = [self.write(talk[:turns], answer_next=True).literals for turns in (1, 3)]
            if any(part != whole[: len(part)] for part in parts):
                raise PromptError(
                    "the chat template opens an answer otherwise once it is given, so a model "
                    "would be trained and used differently: choose language.prompt=chatml or vicuna"
                )
        blank = not self._opening and given[0][shared:].isspace()
        return given[0][shared:] if blank else ""

    def _find_end(self) -> tuple[bool, str]:
        """Whether the template itself ends an answer, and the token that does."""
        literal = self.write([QUESTION, ANSWER], answer_next=False).literals[-1]
        for word in self.split(literal):
            if word in self.vocabulary and not word.isspace():
                return True, word
        if self.tokenizer.eos_token is None:
            raise PromptError(
                "nothing ends an answer: the chat template writes no special token behind it, and "
                "the tokenizer has no end-of-sequence token"
            )
        return False, self.tokenizer.eos_token

    def _find_marks(self) -> re.Pattern[str]:
        literals = self.write([QUESTION, ANSWER], answer_next=True).literals
        with suppress(PromptError):
            literals += self.write([SYSTEM, QUESTION], answer_next=False).literals
        words = {word for literal in literals for word in self.split(literal)}
        words &= self.vocabulary.keys() - set(self.tokenizer.all_special_tokens)
        return re.compile(f"(?={any_of(word for word in words if not word.isspace())})")


def choose(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> str:
    """The Jinja text of a setting. `auto` is ChatML where the tokenizer has its two tokens, else
    its own template, as where that writes the two otherwise. ChatML begins with the BOS where the
    tokenizer's own does. A PromptError if the tokenizer lacks what the setting needs."""
    has_chatml = tokenizer.get_added_vocab().keys() >= CHATML
    if prompt == "chatml" and not has_chatml:
        raise PromptError("the tokenizer has no <|im_start|> and <|im_end|>, so not chatml")
    if prompt == "vicuna":
        return FORMATS["vicuna"]
    if prompt == "template" or not has_chatml:
        try:
            return tokenizer.get_chat_template()
        except ValueError as error:
            raise PromptError(
                "the tokenizer has no chat template: choose language.prompt=chatml or vicuna"
            ) from error
    try:
        own = ChatTemplate(tokenizer, "template")
        start, *rest = own.write([QUESTION, ANSWER, QUESTION], answer_next=True).literals
    except PromptError:
        return FORMATS["chatml"]
    behind = "<|im_end|>\n<|im_start|>"
    ours = [f"{behind}assistant\n", f"{behind}user\n", f"{behind}assistant\n"]
    if prompt == "auto" and (rest != ours or not start.endswith("<|im_start|>user\n")):
        return own.text
    # SmolLM2 calls <|im_start|> its BOS.
    begins = start.startswith(f"{tokenizer.bos_token}<|im_start|>")
    return "{{ bos_token }}" * begins + FORMATS["chatml"]


def any_of(words: Iterable[str]) -> str:
    """A regular expression for any of the words, the longest first."""
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)"


def plain_ids(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids of text in which no special token is recognised."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

"""Prompt: a conversation -> token ids, loss mask and image slots, all from one function.

A conversation becomes a list of segments: text, special tokens, image slots. Each carries whether
it is supervised, and the ids are put together from them; nothing is ever tokenised, searched and
tokenised again. Special tokens come only from the chat template: whatever a user types, `<image>`
or `<|im_end|>` included, is tokenised as plain text.

An image slot is a run of `IMAGE_SLOT`, as many as the image has tokens; it has no id in the
vocabulary, so no model has to be resized for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from vlm.chat_template import ChatTemplate, Words, Written, plain_ids
from vlm.images import ImageSource
from vlm.messages import Messages, Slot, read_messages
from vlm.tiles import Layout

IMAGE_SLOT = -200
"""Stands in `input_ids` where an image token goes (LLaVA's IMAGE_TOKEN_INDEX)."""

GUARD = "\ue000"
"""A character that no tokenizer joins with what is beside it."""


@dataclass(frozen=True)
class Segment:
    """Text in which no special tokens are recognised, the id of one, or the place of an image."""

    content: str | int | Slot
    supervised: bool = False


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model sees it: T ids, `IMAGE_SLOT` where an image token goes, T flags,
    True for the assistant's words and its end of turn, and the place of each image; where images
    are cut into tiles, also how the tokens of each one are put together."""

    input_ids: list[int]
    loss_mask: list[bool]
    image_slots: list[range]
    images: list[ImageSource]
    layouts: list[Layout] = field(default_factory=list)

    @property
    def squares(self) -> int:
        """Squares of its images that the vision tower sees."""
        return sum(each.squares for each in self.layouts) if self.layouts else len(self.images)

    def __len__(self) -> int:
        return len(self.input_ids)


def build_prompt(
    messages: Messages,
    template: ChatTemplate,
    image_tokens: int | Callable[[ImageSource], tuple[ImageSource, Layout]],
    answer_next: bool = True,
) -> Prompt:
    """A conversation as a model sees it of whose projector an image gets `image_tokens`, or as many
    as its layout says, which comes with the image, decoded; with `answer_next` it ends with the
    opening of the assistant's turn, ready to generate. A PromptError for a malformed message, or a
    conversation that the template does not take."""
    written = template.write(read_messages(messages), answer_next)
    segments = strip_text(merge_text(segments_of(written, template, answer_next)), template)
    ids = [template.tokenizer.bos_token_id] if written.adds_bos else []
    mask = [False] * len(ids)
    slots: list[range] = []
    images: list[ImageSource] = []
    layouts: list[Layout] = []
    before: str | int | Slot | None = None
    for segment in segments:
        start, content = len(ids), segment.content
        if isinstance(content, str):
            ids += text_ids(content, template, before)
        elif isinstance(content, int):
            ids.append(content)
        else:
            image, count = content.image, image_tokens
            if callable(image_tokens):
                image, layout = image_tokens(image)
                layouts.append(layout)
                count = layout.tokens
            ids += [IMAGE_SLOT] * count
            slots.append(range(start, len(ids)))
            images.append(image)
        mask += [segment.supervised] * (len(ids) - start)
        before = content
    return Prompt(ids, mask, slots, images, layouts)


def segments_of(written: Written, template: ChatTemplate, answer_next: bool) -> Iterator[Segment]:
    """What a template wrote, and the words between."""
    placed = iter(written.placed)
    around = zip([None, *written.words], written.literals, [*written.words, None], strict=True)
    for before, literal, after in around:
        if before is not None:
            yield from word_segments(before)
        ends = before is not None and before.answer
        if ends and after is None and not answer_next and not template.ends_itself:
            yield Segment(template.end_id, supervised=True)
            return
        # Text that the template wrote: here, and only here, special tokens are recognised.
        pieces = template.split(literal)
        end = pieces.index(template.end) + 1 if ends and template.end in pieces else 0
        for place, piece in enumerate(pieces):
            if piece == template.image:
                yield Segment(next(placed))
            else:
                yield Segment(template.vocabulary.get(piece, piece), supervised=place < end)
        # The space between the assistant's name and its words belongs to the words, where a model
        # that generates puts it.
        if after is not None and after.answer:
            yield Segment(template.space, supervised=True)


def word_segments(words: Words) -> Iterator[Segment]:
    """The text and images of a turn; an image that the template does not place is followed by a
    newline, as in LLaVA."""
    for part in words.parts:
        if isinstance(part, Slot):
            yield Segment(part)
            yield Segment("\n")
        else:
            yield Segment(part, supervised=words.answer)


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


def strip_text(segments: list[Segment], template: ChatTemplate) -> list[Segment]:
    """Leaves out the whitespace that special tokens swallow: `<|end|>\\n` is one token in Phi-3."""
    for swallowing, cut in (
        (template.swallows_right, str.lstrip),
        (template.swallows_left, str.rstrip),
    ):
        kept: list[Segment] = []
        for segment in segments:
            content, beside = segment.content, kept[-1].content if kept else None
            if isinstance(content, str) and isinstance(beside, int) and beside in swallowing:
                content = cut(content)
            if content != "":
                kept.append(Segment(content, segment.supervised))
        # The second pass goes backwards.
        segments = kept[::-1]
    return segments


def text_ids(text: str, template: ChatTemplate, before: str | int | Slot | None) -> list[int]:
    """Ids of text in which no special token is recognised, `before` being what comes before it."""
    # What marks a turn but is no special token of the tokenizer is cut in two.
    cuts = [match.start() + 1 for match in template.marks.finditer(text)]
    joined = isinstance(before, str) or (before is not None and template.only_first)
    ids: list[int] = []
    for start, end in pairwise([0, *cuts, len(text)]):
        piece = text[start:end]
        if template.adds_space and (joined or start):
            guard = plain_ids(GUARD, template.tokenizer)
            ids += plain_ids(GUARD + piece, template.tokenizer)[len(guard) :]
        else:
            ids += plain_ids(piece, template.tokenizer)
    return ids

"""LLaVA's instruction data: JSON or JSON-lines, `conversations` of `human` and `gpt` with `<image>`
where an image goes, `image` a path or a list of paths (Liu et al. 2023, section 4)."""

import re
from pathlib import Path

from vlm.data.records import Record, photo_at
from vlm.data.sample import Message, Sample, SkipSample, kinds_of, text_of
from vlm.data.source import DataSource


def llava_sample(source: DataSource, record: Record) -> Sample:
    """One conversation. It has as many images, none among them, as `<image>`."""
    named = record.content.get("image")
    names = named if isinstance(named, list) else [] if named is None else [named]
    photos = tuple(photo_at(Path(source.path).parent, source.images, name) for name in names)
    turns = record.content["conversations"]
    if not isinstance(turns, list) or not turns:
        raise SkipSample("no question and answer")
    messages: list[Message] = []
    placed = 0
    for number, turn in enumerate(turns, start=1):
        asks = number % 2 == 1
        expected = "human" if asks else "gpt"
        if not isinstance(turn, dict) or turn.get("from") != expected:
            raise SkipSample("turns do not alternate", f"turn {number} is not from {expected}")
        text = text_of(turn.get("value"), "question" if asks else "answer")
        if asks:
            parts = question_parts(text, placed)
            placed += sum(isinstance(part, int) for part in parts)
            messages.append(Message("user", parts))
        else:
            messages.append(Message("assistant", (text,)))
    if len(messages) % 2:
        raise SkipSample("no answer to the last question")
    if placed != len(photos):
        raise SkipSample("<image> and images differ", f"{placed} <image>, {len(photos)} images")
    return Sample(record.where, photos, (tuple(messages),), kinds=(kinds_of(record.content),))


def question_parts(text: str, placed: int) -> tuple[str | int, ...]:
    """Text and images in order, the images counted from `placed`, those of earlier questions. A
    line break behind `<image>` is left out, since a prompt has one behind each image."""
    first, *rest = re.split("<image>\n?", text)
    parts: list[str | int] = [first]
    for number, piece in enumerate(rest, start=placed):
        parts += [number, piece]
    return tuple(part for part in parts if isinstance(part, int) or part.strip())

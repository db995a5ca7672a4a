"""Another view of a sample, drawn anew in each epoch: parts of its photos, mirrored or not."""

import random
import re
from dataclasses import replace

from PIL import Image, ImageOps

from vlm.data.sample import Message, Sample

SIDE = re.compile(r"\b(left|right)", re.IGNORECASE)
"""What a mirrored photo would make wrong."""
EXCHANGEABLE = re.compile(
    r"(?:(?<=\bthe )|(?<=\bto )|(?<=\bfar ))(?:left|right)\b"
    r"|\b(?:left|right)(?=[ -]?(?:hand|side|most|corner|of|wall|end)\b)",
    re.IGNORECASE,
)
"""Where `left` and `right` name sides: not in "a bag left behind" or "right in the camera"."""


def view(photo: Image.Image, mirrored: bool, generator: random.Random) -> Image.Image:
    """A random part of a photo with at least 60% of its area (Szegedy et al. 2015, milder), or its
    mirror image."""
    scale = generator.uniform(0.6, 1.0) ** 0.5
    stretch = generator.uniform(scale, 1 / scale) ** 0.5
    width = max(1, round(photo.width * scale * stretch))
    height = max(1, round(photo.height * scale / stretch))
    left = generator.randint(0, photo.width - width)
    top = generator.randint(0, photo.height - height)
    part = photo.crop((left, top, left + width, top + height))
    return ImageOps.mirror(part) if mirrored else part


def mirror(sample: Sample, generator: random.Random) -> tuple[Sample, bool]:
    """Half of the time, what is true of a sample whose photos are mirrored: left and right change
    places in its texts. Never where they are said in another sense, or of no photo. And whether the
    photos, here as they are, are to be mirrored."""
    texts = [*sample.questions, *sample.texts()]
    named = all(len(SIDE.findall(text)) == len(EXCHANGEABLE.findall(text)) for text in texts)
    if generator.random() < 0.5 or not named or not sample.photos:
        return sample, False
    conversations = tuple(
        tuple(Message(said.role, tuple(map(_exchanged, said.parts))) for said in conversation)
        for conversation in sample.conversations
    )
    questions = tuple(map(_exchanged, sample.questions))
    return replace(sample, conversations=conversations, questions=questions), True


def _exchanged(part: str | int) -> str | int:
    return EXCHANGEABLE.sub(_other_side, part) if isinstance(part, str) else part


def _other_side(match: re.Match[str]) -> str:
    side = match.group()
    other = "right" if side.lower() == "left" else "left"
    return other.upper() if side.isupper() else other.title() if side.istitle() else other

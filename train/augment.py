"""Another view of a photo, drawn anew in each epoch."""

import random
import re

from PIL import Image, ImageOps

SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)
"""What a mirrored photo would make wrong."""


def augment(photo: Image.Image, texts: list[str], generator: random.Random) -> Image.Image:
    """A random part of a photo with at least 60% of its area, mirrored half of the time if no text
    speaks of left or right (Szegedy et al. 2015, milder)."""
    scale = generator.uniform(0.6, 1.0) ** 0.5
    stretch = generator.uniform(scale, 1 / scale) ** 0.5
    width = max(1, round(photo.width * scale * stretch))
    height = max(1, round(photo.height * scale / stretch))
    left = generator.randint(0, photo.width - width)
    top = generator.randint(0, photo.height - height)
    part = photo.crop((left, top, left + width, top + height))
    mirrored = generator.random() < 0.5 and not any(map(SIDES.search, texts))
    return ImageOps.mirror(part) if mirrored else part

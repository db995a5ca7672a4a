"""What a record has and no reader takes: media, without which it is not trained, and other keys
that say something, which are named in `Sample.dropped`."""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm.data.columns import OPTIONS
from vlm.data.photos import ENDINGS
from vlm.data.sample import SkipSample
from vlm.errors import shortened

MEDIA = "image|img|picture|photo|video|audio|vision|speech|sound|media"
FILES = ENDINGS | {".mp4", ".mov", ".avi", ".mkv", ".webm", ".mp3", ".wav", ".flac", ".npy", ".ply"}
"""Endings of what can be seen or heard."""

TAG = re.compile(rf"<\|?[\w -]{{0,40}}(?:{MEDIA})[\w -]{{0,40}}\|?>", re.IGNORECASE)
"""`<video>`, `<ImageHere>`, `<|image_pad|>`, `<image_1>`: the place of something."""

WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
BRINGS = re.compile(rf"(?:{MEDIA}|frame|clip|point|cloud|pointcloud|pixel)s?")
ABOUT = re.compile(
    "ids?|width|height|size|shape|sources?|type|format|license|title|captions?|tags?"
)
"""The last word of a key that says something about it: `image_id`."""

NOTES = {"id", "split", "source", "dataset", "metadata", "meta", "license", "url"}
"""Keys that are known to change nothing, whatever is in them."""

MEANS = {*OPTIONS, "hint", "history", "system", "tools"}
"""Keys that change what is asked, whatever is in them."""


def unread(left: Mapping[str, Any], photos: Collection[Any] | None = None) -> list[str]:
    """Words for each of the keys left over that holds an object, a list or a text: single words,
    numbers and lists of them are taken for ids and notes, but for the keys in `MEANS`. A SkipSample
    for media: a key such as `video` or `img_path` that has other things than the `photos` that were
    read; where these are none, any key with a file that can be seen or heard."""
    told = []
    for key, value in left.items():
        values = value if isinstance(value, list) else [value]
        values = [one for one in values if one and not isinstance(one, int | float)]
        blind = photos is not None and not photos and any(map(_is_file, values))
        if blind or (_brings(key) and any(one not in (photos or ()) for one in values)):
            raise SkipSample(f"unread media {shortened(key, 40)!r}", str(value))
        if key not in NOTES and any(key in MEANS or _says(one) for one in values):
            told.append(f"unread key {shortened(key, 40)!r}")
    return told


def refuse_tags(text: str) -> None:
    """A SkipSample if a text has the place of something that is not read."""
    if found := TAG.search(text):
        raise SkipSample("unread media", found.group())


@lru_cache(maxsize=1024)
def _brings(key: str) -> bool:
    """Whether a key brings something to be seen or heard."""
    words = [word.lower() for word in WORD.findall(key)]
    return any(map(BRINGS.fullmatch, words)) and not ABOUT.fullmatch(words[-1])


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and Path(value).suffix.lower() in FILES


def _says(value: Any) -> bool:
    if isinstance(value, str):
        return len(value.split()) > 1 or not value.isascii()
    return isinstance(value, list | dict)

"""Messages: a conversation checked and brought to one shape."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vlm.errors import PromptError
from vlm.images import ImageSource, load_image

Messages = str | Sequence[dict[str, Any]]
"""A question, or messages `{"role": ..., "content": ...}` whose content is a string or a list of
`{"type": "text", "text": ...}` and `{"type": "image", "image": ...}`; OpenAI's, Anthropic's and
transformers' parts with images are taken as well."""

Images = ImageSource | list[ImageSource] | tuple[ImageSource, ...] | None
"""One image, several as a list or tuple, or None."""


@dataclass(frozen=True)
class Slot:
    """The place of one image."""

    image: ImageSource


@dataclass(frozen=True)
class Turn:
    """One message: who says it, and its text and images in order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Slot, ...]


def read_messages(messages: Messages) -> list[Turn]:
    """The turns of a conversation; a PromptError names a message that is wrong."""
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
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, Sequence):
        raise PromptError(f"message {number}: content is neither a string nor a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield part["text"]
        elif kind in ("image", "image_url") and (image := image_in(part)) is not None:
            # Images are compared with one another, which arrays cannot be.
            yield Slot(load_image(image) if isinstance(image, np.ndarray) else image)
        else:
            raise PromptError(
                f"message {number}: a part is neither {{'type': 'text', 'text': ...}} "
                "nor {'type': 'image', 'image': ...}"
            )


def image_in(part: dict[str, Any]) -> Any:
    """The image of a part, or its path or URL, by any of its names; None if there is none."""
    names = ("image", "image_url", "source", "url", "path")
    found = next((part[name] for name in names if part.get(name) is not None), None)
    if isinstance(found, dict) and found.get("type") == "base64":  # Anthropic's
        return f"data:{found.get('media_type')};base64,{found.get('data')}"
    return found.get("url", found) if isinstance(found, dict) else found


def with_images(messages: Messages, images: Images) -> Messages:
    """Puts images in front of the text of the last message."""
    several = images if isinstance(images, list | tuple) else [images]
    pictures = [{"type": "image", "image": image} for image in several if image is not None]
    if not pictures:
        return messages
    read_messages(messages)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    *earlier, last = messages
    content = last["content"]
    words = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    return [*earlier, {"role": last["role"], "content": pictures + words}]

"""Small data sets on disk, and the samples that they hold."""

import json
import re
from io import BytesIO
from pathlib import Path

from tests import tiny
from vlm.data.read import read_source
from vlm.data.sample import Conversation, Message, Samples
from vlm.data.source import DataSource


def save_photos(folder: Path, *names: str) -> None:
    """Writes a different tiny photo under each name."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tiny.photo(number).save(folder / name)


def png(seed: int) -> bytes:
    """The photo of this seed as a PNG file."""
    encoded = BytesIO()
    tiny.photo(seed).save(encoded, "PNG")
    return encoded.getvalue()


def save_lines(file: Path, *lines: object) -> Path:
    """Writes JSON-lines; a string is written as it is."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return file


def save_json(file: Path, content: object) -> Path:
    """Writes one JSON value."""
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def read(path: Path | str, **fields: object) -> Samples:
    """What a source holds."""
    return read_source(DataSource(str(path), **fields))


def asked(question: str, answer: str) -> Conversation:
    """A question about one photo, and its answer."""
    return Message("user", (0, question)), Message("assistant", (answer,))


def captions(*texts: str) -> tuple[Conversation, ...]:
    """What a photo's captions become."""
    return tuple((Message("user", (0,)), Message("assistant", (text,))) for text in texts)


def reasons(found: Samples, folder: Path) -> list[tuple[str, str, str]]:
    """Place, reason and detail of what was skipped, paths as seen from the folder; without the hint
    which setting helps."""
    details = [re.sub("( under [^:]+)?: `.*", "", one.detail) for one in found.skipped]
    return [
        (one.where.replace(f"{folder}/", ""), one.reason, detail.replace(f"{folder}/", ""))
        for one, detail in zip(found.skipped, details, strict=True)
    ]

"""Captioned photos: JSON-lines, COCO captions, and a folder of photos with a `.txt` file beside
each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm.data.photos import ENDINGS, FilePhoto
from vlm.data.records import Record, by_id, files_in, is_id, photo_at, read_lists
from vlm.data.sample import Sample, SkipSample, captioned, text_of
from vlm.data.source import DataSource
from vlm.errors import DataError


def coco_records(source: DataSource) -> Iterator[Record]:
    """COCO captions (Chen et al. 2015): one JSON object with `images` (id, file_name) and
    `annotations` (image_id, caption)."""
    file = Path(source.path)
    rows, said = read_lists(file, images=("id", "file_name"), annotations=("image_id", "caption"))
    images = by_id(file, (row.content for row in rows), "id")
    captions: dict[Any, list[Any]] = {number: [] for number in images}
    for where, content, _ in said:
        number = content["image_id"]
        if not is_id(number) or number not in captions:
            raise DataError(f"{where}: no image has the id {number!r}")
        captions[number].append(content["caption"])
    for number, image in images.items():
        content = {"image": image["file_name"], "captions": captions[number]}
        yield Record(f"{file}, image {number}", content)


def caption_sample(source: DataSource, record: Record) -> Sample:
    """One photo: `{"image": "a.jpg", "captions": ["A dog runs."]}`, optionally with the `question`
    that they answer."""
    content = record.content
    photo = photo_at(Path(source.path).parent, source.images, content["image"])
    questions = source.questions
    if content.get("question") is not None:
        questions = [text_of(content["question"], "question")]
    return captioned(record.where, photo, content["captions"], questions)


def folder_records(source: DataSource) -> Iterator[Record]:
    """The photos, and the texts without one, of a folder and the folders in it, by their paths."""
    paths = files_in(Path(source.path))
    photos = {path.with_suffix("") for path in paths if path.suffix.lower() in ENDINGS}
    for path in paths:
        lone = path.suffix == ".txt" and path.with_suffix("") not in photos
        if lone or path.suffix.lower() in ENDINGS:
            yield Record(str(path), path)


def folder_sample(source: DataSource, record: Record) -> Sample:
    """One photo with the captions beside it, one a line."""
    path = record.content
    if path.suffix == ".txt":
        raise SkipSample("missing image", f"no photo beside {path}")
    beside = path.with_suffix(".txt")
    try:
        text = beside.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SkipSample("no text beside the photo", f"{beside}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SkipSample("caption is not text", f"{beside}: {error}") from error
    return captioned(record.where, FilePhoto(path), lines_of(text), source.questions)


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]

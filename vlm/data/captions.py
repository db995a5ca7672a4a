"""Captioned photos: JSON-lines, COCO captions, and a folder of photos with a text file beside
each. A caption is trained as it stands."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlm.data.columns import Keys, keys_of
from vlm.data.photos import ENDINGS, FilePhoto, Photo
from vlm.data.records import Record, by_id, files_in, is_id, photos_at, read_lists, read_records
from vlm.data.sample import Message, Sample, SkipSample, text_of, texts_of
from vlm.data.source import DataSource
from vlm.data.unread import unread
from vlm.errors import DataError

TEXTS = (".txt", ".caption")
"""How the files end that hold the caption of the photo that they share their name with."""


def caption_records(source: DataSource) -> Iterator[Record]:
    """The lines of a file such as `{"image": "a.jpg", "captions": ["A dog runs."]}`, or `caption`
    or `text` for one alone, optionally with the `question` that they answer."""
    for where, content, split in read_records(Path(source.path)):
        keys = keys_of(where, source.columns, content, "captions")
        yield Record(where, (content, keys), split)


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
        yield Record(f"{file}, image {number}", (content, Keys("image", "captions")))


def caption_sample(source: DataSource, record: Record) -> Sample:
    """Photos with what people say of them."""
    row, keys = record.content
    images, photos = photos_at(source, row[keys.image])
    left = unread(keys.left(row), images)
    return captioned(source, record.where, photos, row[keys.caption], row.get("question"), left)


def captioned(
    source: DataSource,
    where: str,
    photos: tuple[Photo, ...],
    captions: Any,
    question: Any = None,
    left: Sequence[str] = (),
) -> Sample:
    """One conversation for each different caption, which answers any of the source's questions, or
    the one beside it; `left` are words for what else is dropped."""
    said, dropped = texts_of(captions, "caption")
    questions = source.questions
    # Tables have no other word for none.
    if question not in (None, ""):
        # It comes behind the photo in any case.
        behind = re.sub("^<image>\n?|\n?<image>$", "", text_of(question, "question"))
        questions = [text_of(behind, "question")]
        if "<image>" in behind:
            raise SkipSample("<image> within the question of a caption", behind)
    conversations = tuple(
        (Message("user", tuple(range(len(photos)))), Message("assistant", (caption,)))
        for caption in dict.fromkeys(said)
    )
    return Sample(
        where, photos, conversations, tuple(questions), (said,), dropped=(*dropped, *left)
    )


def folder_records(source: DataSource) -> Iterator[Record]:
    """The photos, and the texts without one, of a folder and the folders in it, by their paths."""
    paths = files_in(Path(source.path))
    photos = {path.with_suffix("") for path in paths if path.suffix.lower() in ENDINGS}
    for path in paths:
        lone = path.suffix in TEXTS and path.with_suffix("") not in photos
        if lone or path.suffix.lower() in ENDINGS:
            yield Record(str(path), path)


def folder_sample(source: DataSource, record: Record) -> Sample:
    """One photo with the caption beside it."""
    path = record.content
    if path.suffix in TEXTS:
        raise SkipSample("missing image", f"no photo beside {path}")
    found = [path.with_suffix(ending) for ending in TEXTS]
    beside = next((file for file in found if file.is_file()), found[0])
    try:
        text = beside.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SkipSample("no text beside the photo", f"{beside}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SkipSample("caption is not text", f"{beside}: {error}") from error
    captions = text_captions(text, source.caption_per_line)
    return captioned(source, record.where, (FilePhoto(path),), captions)


def text_captions(text: str, per_line: bool = False) -> list[str]:
    """The caption that a text file holds, or one in each line; a SkipSample for YOLO's labels."""
    lines = [line for line in text.splitlines() if line.strip()]
    if "." in text and all(map(is_box, lines)):
        raise SkipSample(
            "YOLO's boxes, not a caption",
            f"{lines[0][:60]!r}: give captions, or the boxes in COCO's form",
        )
    return lines if per_line else [text.replace("\r\n", "\n")]


def is_box(line: str) -> bool:
    """Whether a line is one of YOLO's labels: a class, and at least four shares of the photo."""
    number, *shares = line.split()
    try:
        inside = all(0 <= float(share) <= 1 for share in shares)
    except ValueError:
        return False
    return number.isdigit() and len(shares) >= 4 and inside

"""COCO captions (Chen et al. 2015): one JSON object with `images` (id, file_name) and `annotations`
(image_id, caption)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm.data.records import Record, photo_at
from vlm.data.sample import Sample, captioned
from vlm.data.source import DataSource
from vlm.errors import DataError
from vlm.files import read_json


def records(source: DataSource) -> Iterator[Record]:
    """The images of a file, each with all its captions, in the file's order.

    Raises:
        DataError: the file cannot be read, lacks what COCO's have, or two images have the same id.
    """
    whole = read_json(Path(source.path))
    try:
        names: dict[Any, Any] = {}
        for image in whole["images"]:
            number, name = image["id"], image["file_name"]
            if number in names:
                raise DataError(
                    f"{source.path}: two images have the id {number!r}, {names[number]!r} and "
                    f"{name!r}: give each an id of its own"
                )
            names[number] = name
        captions: dict[Any, list[Any]] = {number: [] for number in names}
        for annotation in whole["annotations"]:
            captions[annotation["image_id"]].append(annotation["caption"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{source.path}: not COCO captions ({error} is the trouble): expected images with id "
            "and file_name, and annotations with caption and the image_id of one of the images"
        ) from error
    for number, name in names.items():
        yield Record(f"{source.path}, image {number}", (name, captions[number]))


def sample(source: DataSource, where: str, record: tuple[Any, list[Any]]) -> Sample:
    """One image with its captions.

    Raises:
        SkipSample: it is missing, has no captions, or one that is no text.
    """
    name, captions = record
    photo = photo_at(Path(source.path).parent, source.images, name)
    return captioned(where, photo, captions, source.questions)

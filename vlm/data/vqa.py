"""VQA v2 (Goyal et al. 2017): questions in one JSON file, ten human answers to each in another. The
form of OK-VQA, too."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm.data.records import Record, by_id, read_records
from vlm.data.source import DataSource
from vlm.errors import DataError
from vlm.files import read_json

TYPES = ("answer_type", "question_type")
"""`yes/no`, `number` or `other`; and what the question begins with, such as `how many`."""


def read_vqa(questions: Path, annotations: Path) -> tuple[dict[Any, dict[str, Any]], list[Any]]:
    """The questions of a file by id, each about the photo of its `image_id` in COCO, with `TYPES`
    and, as `answers`, what people, as a rule ten, answered: None where the annotations have none.
    And the ids of annotations that belong to none. A DataError if a file cannot be read, or lacks
    what VQA v2's have."""
    rows = read_records(questions, ("question", "image_id"), "questions")
    asked = by_id(questions, (row.content for row in rows), "question_id")
    rows = read_records(annotations, ("answers",), "annotations")
    annotated = by_id(annotations, (row.content for row in rows), "question_id")
    for number, row in asked.items():
        given = annotated.get(number, {})
        try:
            row["answers"] = [one["answer"] for one in given["answers"]] if given else None
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{annotations}: question {number} needs a list 'answers' of objects with 'answer'"
            ) from error
        row |= {name: given.get(name) for name in TYPES}
    return asked, [number for number in annotated if number not in asked]


def vqa_records(source: DataSource) -> Iterator[Record]:
    """The images of a file, each with its questions and their answers."""
    if source.annotations is None:
        raise DataError(f"{source.path}: questions need answers: name their file in annotations")
    questions, _ = read_vqa(Path(source.path), source.annotations)
    whole = read_json(Path(source.path))
    subtype = whole.get("data_subtype") if isinstance(whole, dict) else None
    images: dict[str, tuple[list[str], list[Record]]] = {}
    for number, row in questions.items():
        content = {key: row[key] for key in ("question", "answers")} | {"kind": row["answer_type"]}
        image = row["image_id"]
        _, asked = images.setdefault(str(image), (file_names(image, subtype), []))
        asked.append(Record(f"question {number}", content))
    for image, about in images.items():
        yield Record(f"{source.path}, image {image}", about)


def file_names(image: Any, subtype: Any) -> list[str]:
    """COCO's names for an image: that of the year that the questions were asked in, and that of the
    later years, where all images have their number alone."""
    if not isinstance(image, int):
        return [str(image)]
    return [f"COCO_{subtype}_{image:012d}.jpg", f"{image:012d}.jpg"]

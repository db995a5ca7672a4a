"""VQA v2 (Goyal et al. 2017): questions in one JSON file, ten human answers to each in another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm.data.records import Record, photo_at
from vlm.data.sample import Sample, SkipSample, asked
from vlm.data.source import DataSource
from vlm.errors import DataError
from vlm.files import read_json


def records(source: DataSource) -> Iterator[Record]:
    """The images of a file, each with its questions and their answers.

    Raises:
        DataError: a file cannot be read or lacks what VQA v2's have, or no annotations are given.
    """
    if source.annotations is None:
        raise DataError(f"{source.path}: questions need answers: name their file in annotations")
    questions, annotations = read_json(Path(source.path)), read_json(source.annotations)
    try:
        answers = {
            row["question_id"]: [given["answer"] for given in row["answers"]]
            for row in annotations["annotations"]
        }
        images: dict[Any, list[tuple[Any, Any]]] = {}
        for row in questions["questions"]:
            pair = row["question"], answers.get(row["question_id"])
            images.setdefault(row["image_id"], []).append(pair)
        subtype = str(questions.get("data_subtype"))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{source.path} with {source.annotations}: not VQA v2 ({error} is the trouble): "
            "expected questions with question_id, image_id and question, and annotations with "
            "question_id and answers"
        ) from error
    for image, pairs in images.items():
        yield Record(f"{source.path}, image {image}", (file_names(image, subtype), pairs))


def file_names(image: Any, subtype: str) -> list[str]:
    """COCO's names for an image: that of the year that the questions were asked in, and that of the
    later years, where all images have their number alone."""
    if not isinstance(image, int):
        return [str(image)]
    return [f"COCO_{subtype}_{image:012d}.jpg", f"{image:012d}.jpg"]


def sample(
    source: DataSource, where: str, record: tuple[list[str], list[tuple[Any, list[Any] | None]]]
) -> Sample:
    """One image with a conversation for each question.

    Raises:
        SkipSample: it is missing, or a question has no answer.
    """
    names, pairs = record
    photo = photo_at(Path(source.path).parent, source.images, *names)
    for question, answers in pairs:
        if answers is None:
            raise SkipSample("question without annotation", repr(question)[:100])
    return Sample(where, (photo,), tuple(asked(*pair, source) for pair in pairs))

"""VQA v2 (Goyal et al. 2017): questions in one JSON file, ten human answers to each in another. The
form of OK-VQA, too."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm.data.records import Record, by_id, photo_at, read_records
from vlm.data.sample import Sample, SkipSample, answers_of, asked
from vlm.data.source import DataSource
from vlm.errors import DataError
from vlm.files import read_json


@dataclass(frozen=True)
class VqaQuestion:
    """A question with what people answered.

    Attributes:
        id: no other question has it.
        image: number of the photo in COCO.
        text: the question.
        answers: of ten people, as a rule; None where the annotations have none for it.
        question_type: what it begins with, such as `how many`; None if nothing says.
        answer_type: `yes/no`, `number` or `other`; None if nothing says.
    """

    id: Any
    image: Any
    text: Any
    answers: tuple[Any, ...] | None
    question_type: Any = None
    answer_type: Any = None


def read_vqa(questions: Path, annotations: Path) -> tuple[list[VqaQuestion], list[Any]]:
    """The questions of a file, and the ids of annotations that belong to none.

    Raises:
        DataError: a file cannot be read, or lacks what VQA v2's have.
    """
    asked = by_id(
        questions,
        (each.content for each in read_records(questions, ("question", "image_id"), "questions")),
        "question_id",
    )
    annotated = by_id(
        annotations,
        (each.content for each in read_records(annotations, ("answers",), "annotations")),
        "question_id",
    )
    found = []
    for number, row in asked.items():
        given = annotated.get(number)
        answers = None
        if given is not None:
            try:
                answers = tuple(one["answer"] for one in given["answers"])
            except (KeyError, TypeError) as error:
                raise DataError(
                    f"{annotations}: question {number} needs a list 'answers' of objects with "
                    "'answer'"
                ) from error
        kinds = (None, None)
        if given is not None:
            kinds = (given.get("question_type"), given.get("answer_type"))
        found.append(VqaQuestion(number, row["image_id"], row["question"], answers, *kinds))
    return found, [number for number in annotated if number not in asked]


def records(source: DataSource) -> Iterator[Record]:
    """The images of a file, each with its questions and their answers.

    Raises:
        DataError: as `read_vqa`, or no annotations are given.
    """
    if source.annotations is None:
        raise DataError(f"{source.path}: questions need answers: name their file in annotations")
    questions, _ = read_vqa(Path(source.path), source.annotations)
    images: dict[Any, list[VqaQuestion]] = {}
    for question in questions:
        images.setdefault(str(question.image), []).append(question)
    subtype = str(read_json(Path(source.path)).get("data_subtype"))
    for image, about in images.items():
        names = file_names(about[0].image, subtype)
        yield Record(f"{source.path}, image {image}", (names, about))


def file_names(image: Any, subtype: str) -> list[str]:
    """COCO's names for an image: that of the year that the questions were asked in, and that of the
    later years, where all images have their number alone."""
    if not isinstance(image, int):
        return [str(image)]
    return [f"COCO_{subtype}_{image:012d}.jpg", f"{image:012d}.jpg"]


def sample(source: DataSource, where: str, record: tuple[list[str], list[VqaQuestion]]) -> Sample:
    """One image with a conversation for each question.

    Raises:
        SkipSample: it is missing, or a question has no answer.
    """
    names, questions = record
    photo = photo_at(Path(source.path).parent, source.images, *names)
    for question in questions:
        if question.answers is None:
            raise SkipSample("question without annotation", repr(question.text)[:100])
    conversations = tuple(asked(each.text, list(each.answers), source) for each in questions)
    answers = tuple(answers_of(list(each.answers)) for each in questions)
    kinds = tuple(each.answer_type for each in questions)
    return Sample(where, (photo,), conversations, answers=answers, kinds=kinds)

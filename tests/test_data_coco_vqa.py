"""COCO captions and VQA v2, which hold all images and all texts in separate lists."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.data_folders import asked, captions, read, reasons, save_json, save_photos
from vlm.data.photos import FilePhoto
from vlm.data.read import read_whole
from vlm.data.sample import Sample
from vlm.data.source import DataSource
from vlm.data.vqa import read_vqa
from vlm.errors import DataError

COCO = {
    "info": {"year": 2014},
    "images": [
        {"id": 9, "file_name": "b.png"},
        {"id": 3, "file_name": "a.png"},
        {"id": 4, "file_name": "a.png"},
        {"id": 5, "file_name": "none.png"},
    ],
    "annotations": [
        {"image_id": 3, "id": 1, "caption": "a cat"},
        {"image_id": 9, "id": 2, "caption": "A dog runs. "},
        {"image_id": 3, "id": 3, "caption": "a kitten"},
        {"image_id": 5, "id": 4, "caption": "a bus"},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_photos(tmp_path, "images/a.png", "images/b.png")
    return tmp_path


def test_coco(folder: Path) -> None:
    file = save_json(folder / "data", COCO)
    found = read(file, questions=["What?"])
    assert found.format == "coco"
    dog, cat = (FilePhoto(folder / "images" / name) for name in ("b.png", "a.png"))
    assert found.usable == [
        Sample(f"{file}, image 9", (dog,), captions("A dog runs."), ("What?",)),
        Sample(f"{file}, image 3", (cat,), captions("a cat", "a kitten"), ("What?",)),
    ]
    assert reasons(found, folder) == [
        ("data, image 4", "no captions", ""),
        ("data, image 5", "missing image", "none.png"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"annotations": [{"image_id": 3, "bbox": []}]},
            "record 1: caption missing; found image_id, bbox, expected image_id, caption",
        ),
        ({"annotations": [{"image_id": 1, "caption": "a"}]}, "record 1: no image has the id 1"),
        ({"annotations": [{"image_id": [3], "caption": "a"}]}, "record 1: no image has the id [3]"),
        ({"images": [{"id": 3}]}, "record 1: file_name missing; found id, expected id, file_name"),
        ({"images": [{"id": 3, "file_name": "a"}] * 2}, "1 ids with 'id' twice: 3"),
        ({"images": {"3": "a.png"}}, "a list of objects under 'images' is needed"),
        ({"annotations": 3}, "a list of objects under 'annotations' is needed"),
    ],
)
def test_what_is_not_coco(folder: Path, change: dict[str, Any], message: str) -> None:
    file = save_json(folder / "data", COCO | change)
    with pytest.raises(DataError, match=f"^{file}[:,] {re.escape(message)}$"):
        read(file)


def answers(*texts: str) -> list[dict[str, Any]]:
    return [{"answer": text, "answer_id": number} for number, text in enumerate(texts, start=1)]


QUESTIONS = {
    "data_subtype": "train2014",
    "questions": [
        {"image_id": 7, "question": "Who?", "question_id": 70},
        {"image_id": 8, "question": "Is it red?", "question_id": 80},
        {"image_id": 7, "question": "What?", "question_id": 71},
    ],
}
ANNOTATIONS = {
    "annotations": [
        {"question_id": 80, "image_id": 8, "answers": answers("no", "yes", "yes")},
        {"question_id": 71, "image_id": 7, "answers": answers("dog", "cat", "cat", "dog")},
        {"question_id": 70, "image_id": 7, "answers": answers("he")},
    ]
}


@pytest.fixture
def annotations(folder: Path) -> Path:
    save_photos(folder, "images/COCO_train2014_000000000007.jpg", "images/000000000008.jpg")
    return save_json(folder / "annotations", ANNOTATIONS)


def test_vqa(folder: Path, annotations: Path) -> None:
    file = save_json(folder / "data", QUESTIONS)
    found = read(file, annotations=annotations)
    assert found.format == "vqa"
    # The names of 2014 and of the later years.
    seven = FilePhoto(folder / "images/COCO_train2014_000000000007.jpg")
    eight = FilePhoto(folder / "images/000000000008.jpg")
    assert found.usable == [
        Sample(f"{file}, image 7", (seven,), (asked("Who?", "he"), asked("What?", "dog"))),
        Sample(f"{file}, image 8", (eight,), (asked("Is it red?", "yes"),)),
    ]
    instructed = read(file, annotations=annotations, instruction="One word.").usable
    assert instructed[1].conversations == (asked("Is it red?\nOne word.", "yes"),)


def test_vqa_images_that_are_skipped(folder: Path, annotations: Path) -> None:
    more = [
        {"image_id": 9, "question": "Who?", "question_id": 91},
        {"image_id": 8, "question": "Really?", "question_id": 90},
    ]
    questions = QUESTIONS | {"questions": [*QUESTIONS["questions"], *more]}
    found = read(save_json(folder / "data", questions), annotations=annotations)
    eight = found.usable[1]
    assert (eight.conversations, eight.ids) == ((asked("Is it red?", "yes"),), ("80",))
    assert found.dropped == {"no answers": 1}
    assert reasons(found, folder) == [
        (
            "data, image 9",
            "missing image",
            "COCO_train2014_000000000009.jpg or 000000000009.jpg",
        ),
    ]


def test_vqa_needs_annotations(folder: Path, annotations: Path) -> None:
    file = save_json(folder / "data", QUESTIONS)
    with pytest.raises(DataError, match="data: questions need answers: name their file in annota"):
        read(file)
    with pytest.raises(DataError, match=r"^cannot read .*none: No such file or directory$"):
        read(file, annotations=folder / "none")
    (folder / "broken").write_text("{")
    with pytest.raises(DataError, match="broken: not JSON: Expecting"):
        read(file, annotations=folder / "broken")


WHO = {"image_id": 7, "question": "Who?", "question_id": 70}


@pytest.mark.parametrize(
    ("questions", "given", "message"),
    [
        ([{"image_id": 7}], ANNOTATIONS, "data, record 1: question missing; found image_id, exp"),
        ([WHO | {"question_id": None}], ANNOTATIONS, "data: 1 entries with no 'question_id': 1"),
        ([WHO, WHO], ANNOTATIONS, "data: 1 ids with 'question_id' twice: 70"),
        ([WHO], QUESTIONS, "annotations: a list of objects under 'annotations' is needed"),
        ([WHO], [ANNOTATIONS], "annotations, record 1: answers missing; found annotations, expec"),
        (
            [WHO],
            {"annotations": [{"question_id": 70, "answers": ["he"]}]},
            "annotations: question 70 needs a list 'answers' of objects with 'answer'",
        ),
    ],
)
def test_what_is_not_vqa(folder: Path, questions: object, given: object, message: str) -> None:
    file = save_json(folder / "data", {"questions": questions})
    annotations = save_json(folder / "annotations", given)
    with pytest.raises(DataError, match=re.escape(message)):
        read(file, annotations=annotations)


def test_what_evaluation_compares_with(folder: Path, annotations: Path) -> None:
    first, second = read_whole(
        DataSource(str(save_json(folder / "data", QUESTIONS)), annotations=annotations)
    )
    assert first.answers == (("he",), ("dog", "cat", "cat", "dog"))
    assert second.answers == (("no", "yes", "yes"),)
    assert second.kinds == ({},)
    questions, without = read_vqa(folder / "data", annotations)
    assert list(questions) == [70, 80, 71]
    assert without == []

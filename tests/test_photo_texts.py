"""What contrastive training reads of captions and of boxes, and which texts are right."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data_folders import save_lines, save_photos
from train.photo_texts import Known, PhotoTexts, read_photo_texts
from vlm.data.photos import FilePhoto
from vlm.data.source import DataSource
from vlm.errors import DataError


def captioned(folder: Path, *captions: list[str], **fields: Any) -> DataSource:
    """Photos with these captions each."""
    names = [f"{number}.png" for number in range(len(captions))]
    save_photos(folder, *names)
    lines = [{"image": n, "captions": own} for n, own in zip(names, captions, strict=True)]
    save_lines(folder / "captions.jsonl", *lines)
    return DataSource(str(folder / "captions.jsonl"), **fields)


def boxed(
    folder: Path, *photos: dict[str, int], crowded: tuple[str, ...] = (), **fields: Any
) -> DataSource:
    """Photos with so many boxes around each thing."""
    save_photos(folder, *(f"{number}.png" for number in range(len(photos))))
    names = sorted({name for photo in photos for name in photo})
    content = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(len(photos))],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        "annotations": [
            {
                "image_id": number,
                "category_id": names.index(name),
                "bbox": [0, 0, 1, 1],
                "iscrowd": int(name in crowded),
            }
            for number, photo in enumerate(photos)
            for name, count in photo.items()
            for _ in range(count)
        ],
    }
    (folder / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return DataSource(str(folder / "instances.json"), **fields)


def texts_of_boxes(folder: Path, photo: dict[str, int], crowded: tuple[str, ...] = ()) -> set[str]:
    ((found,), skipped) = read_photo_texts(boxed(folder, photo, crowded=crowded))
    assert (found.captions, found.classes, skipped) == ((), tuple(sorted(photo)), [])
    assert len(set(found.labels)) == len(found.labels)
    assert found.texts == found.labels
    return set(found.labels)


def test_captions_and_the_things_that_half_of_them_name(tmp_path: Path) -> None:
    captions = ["A dog runs.", "A dog and an elephant.", "It runs.", "A dog runs."]
    found, skipped = read_photo_texts(captioned(tmp_path, captions, ["An elephant."], ["Fog."]))
    assert skipped == []
    assert [each.captions for each in found] == [tuple(captions[:3]), ("An elephant.",), ("Fog.",)]
    assert [each.labels for each in found] == [
        ("a photo of a dog",),
        ("a photo of an elephant",),
        (),
    ]
    assert all(each.classes == () for each in found)
    assert found[1].texts == ("An elephant.", "a photo of an elephant")
    assert [Path(each.photo.name).name for each in found] == ["0.png", "1.png", "2.png"]


def test_captions_of_no_photo_or_of_several_are_skipped(tmp_path: Path) -> None:
    save_photos(tmp_path, "a.png", "b.png")
    lines = [
        {"image": "a.png", "captions": ["A dog."]},
        {"image": "none.png", "captions": ["A cat."]},
        {"image": ["a.png", "b.png"], "captions": ["Two dogs."]},
    ]
    save_lines(tmp_path / "captions.jsonl", *lines)
    found, skipped = read_photo_texts(DataSource(str(tmp_path / "captions.jsonl")))
    assert [each.captions for each in found] == [("A dog.",)]
    reasons = {one.where.rpartition(", ")[2]: one.reason for one in skipped}
    assert reasons == {"line 2": "missing image", "line 3": "several photos"}


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ({"dog": 1}, {"a photo of a dog"}),
        ({"orange": 2}, {"a photo of an orange", "a photo of two oranges"}),
        ({"person": 5}, {"a photo of a person", "a photo of five people"}),
        ({"sheep": 6}, {"a photo of a sheep"}),
        ({"skis": 2}, {"a photo of skis"}),
        (
            {"dog": 1, "wine glass": 3},
            {
                *("a photo of a dog", "a photo of a wine glass", "a photo of three wine glasses"),
                "a photo of three wine glasses and a dog",
            },
        ),
        (
            {"ant": 1, "bee": 7, "cat": 2, "dog": 2, "elk": 1},
            {
                *(f"a photo of {name}" for name in ("an ant", "a bee", "a cat", "a dog", "an elk")),
                *("a photo of two cats", "a photo of two dogs"),
                "a photo of a bee, two cats, two dogs and an ant",
            },
        ),
    ],
)
def test_boxes_say_what_is_there_how_often_and_together(
    photo: dict[str, int], expected: set[str], tmp_path: Path
) -> None:
    assert texts_of_boxes(tmp_path, photo) == expected


def test_crowds_are_not_counted(tmp_path: Path) -> None:
    told = texts_of_boxes(tmp_path, {"person": 2, "dog": 2}, crowded=("person",))
    assert told == {
        *("a photo of a person", "a photo of a dog", "a photo of two dogs"),
        "a photo of two dogs and a person",
    }


def test_photos_with_boxes_that_are_not_there_are_skipped(tmp_path: Path) -> None:
    source = boxed(tmp_path, {"dog": 1}, {"cat": 1}, {}, {"dog": 2})
    (tmp_path / "1.png").unlink()
    found, skipped = read_photo_texts(source)
    assert [each.classes for each in found] == [("dog",), ("dog",)]
    assert [(one.where, one.reason) for one in skipped] == [
        (f"{source.path}, image 1", "missing image"),
        (f"{source.path}, image 2", "no box"),
    ]
    source.limit = 2
    assert len(read_photo_texts(source)[0]) == 1


def test_questions_are_no_captions(tmp_path: Path) -> None:
    save_photos(tmp_path, "a.png")
    line = {"image": "a.png", "question": "Who?", "answer": "a cat"}
    save_lines(tmp_path / "questions.jsonl", line)
    message = (
        r"questions\.jsonl, line 1: no caption: stage contrast learns from captions and from "
        r"COCO's instances$"
    )
    with pytest.raises(DataError, match=message):
        read_photo_texts(DataSource(str(tmp_path / "questions.jsonl")))


def test_no_photo_that_can_be_used(tmp_path: Path) -> None:
    source = boxed(tmp_path / "boxes", {"dog": 1})
    (tmp_path / "boxes" / "0.png").unlink()
    with pytest.raises(DataError, match=r"instances\.json: no photo with a box can be used$"):
        read_photo_texts(source)
    with pytest.raises(DataError, match="boxes have no splits: leave out split 'train'"):
        read_photo_texts(replace(source, split="train"))
    source = captioned(tmp_path / "captions", ["A dog."])
    (tmp_path / "captions" / "0.png").unlink()
    with pytest.raises(DataError, match=r"captions\.jsonl: no sample can be used: 1 missing image"):
        read_photo_texts(source)


@st.composite
def photos_and_texts(draw: st.DrawFn) -> tuple[list[PhotoTexts], list[int], list[str]]:
    """Photos, some of them twice, with some texts alike; numbers of photos, and texts."""
    text = st.sampled_from(["a photo of a dog", "a photo of a cat", "Fog.", "Rain."])
    made = st.builds(
        PhotoTexts,
        st.integers(0, 3).map(lambda number: FilePhoto(f"{number}.png")),
        st.lists(text, min_size=1, max_size=3).map(tuple),
        st.lists(text, max_size=2).map(tuple),
        st.sampled_from([(), ("dog",), ("cat", "dog")]),
    )
    photos = draw(st.lists(made, min_size=1, max_size=6))
    numbers = st.lists(st.integers(0, len(photos) - 1), max_size=6)
    said = sorted({said for each in photos for said in each.texts})
    return photos, draw(numbers), draw(st.lists(st.sampled_from(said), max_size=6))


@given(photos_and_texts())
def test_a_text_is_right_for_each_photo_that_has_it(
    drawn: tuple[list[PhotoTexts], list[int], list[str]],
) -> None:
    photos, numbers, texts = drawn
    known = Known(photos)
    found = known.right(numbers, [known.numbers[text] for text in texts])
    assert found.shape == (len(numbers), len(texts))
    for row, number in enumerate(numbers):
        same = [each for each in photos if each.photo == photos[number].photo]
        for column, text in enumerate(texts):
            assert found[row, column] == any(text in each.texts for each in same)


@given(photos_and_texts())
def test_texts_have_one_number_each(drawn: tuple[list[PhotoTexts], ...]) -> None:
    known = Known(drawn[0])
    assert list(known.numbers.values()) == list(range(len(known.numbers)))
    names = list(known.numbers)
    for each, own in zip(known.photos, known.own, strict=True):
        assert [names[number] for number in own] == list(dict.fromkeys(each.texts))

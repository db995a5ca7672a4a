"""The data of the embedded model's recipe: what is kept out, and what is asked."""

import json
from pathlib import Path

import pytest

from train.embedded import prepare as prepared
from train.embedded.prepare import digest, prepare
from vlm.files import json_lines, write_file, write_rows


def boxes(ids: range, categories: dict[int, str]) -> dict:
    """A photo of 100 x 100 px for each id, with one large box and a small one."""
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 100} for n in ids],
        "categories": [{"id": n, "name": name} for n, name in categories.items()],
        "annotations": [
            {"image_id": n, "category_id": category, "bbox": box}
            for n in ids
            for category, box in ((1, [0, 0, 80, 80]), (2, [90, 90, 9, 9]))
        ],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data sets, tiny."""
    tmp_path = tmp_path_factory.mktemp("data")
    rows = [
        {"image": f"{n}.jpg", "split": split, "captions": ["two dogs run .", "A dog"]}
        for n, split in enumerate(["train", "val", "test"])
    ]
    for name in ("flickr8k", "coco_small"):
        write_rows(tmp_path / name / "captions.jsonl", rows)
    for name, photos in (
        ("coco_small", boxes(range(3), {1: "dog", 2: "cup"})),
        ("coco_unlabelled", boxes(range(10), {1: "person", 2: "cup"})),
    ):
        write_file(tmp_path / name / "instances.json", json.dumps(photos))
    labels = [{"image": f"{w}.jpg", "wordnet": w, "label": f"apple {w}"} for w in "abc"]
    write_rows(tmp_path / "imagenet_samples" / "labels.jsonl", labels)
    write_rows(tmp_path / "prepared" / "replay.jsonl", [])
    with pytest.MonkeyPatch.context() as patched:
        for name, count in (("TEST", 4), ("VALIDATION", 2), ("CLASSES", 1)):
            patched.setattr(prepared, name, count)
        prepare(tmp_path)
    return tmp_path / "prepared"


def rows_of(file: Path) -> list[dict]:
    return [row for _, row in json_lines(file)]


def test_photos_are_kept_out_by_the_digest_of_their_ids(folder: Path) -> None:
    order = sorted(range(10), key=digest)
    parts = {"test": order[:4], "val": order[4:6], "train": order[6:]}
    for part, ids in parts.items():
        found = json.loads((folder / f"coco_unlabelled_{part}.json").read_text())
        assert {image["id"] for image in found["images"]} == set(ids)
        assert {each["image_id"] for each in found["annotations"]} == set(ids)
    (trained,) = json.loads((folder / "coco_small_train.json").read_text())["images"]
    assert trained["file_name"] == "0.jpg"
    splits = [row["split"] for row in rows_of(folder / "imagenet_samples.jsonl")]
    assert splits == ["val", "train", "train"]


def test_captions_names_and_questions(folder: Path) -> None:
    first = rows_of(folder / "flickr8k.jsonl")[0]
    assert first == {"image": "0.jpg", "split": "train", "captions": ["Two dogs run.", "A dog."]}
    assert rows_of(folder / "coco_small_names.jsonl") == [
        {"image": "0.jpg", "captions": ["A dog."]}
    ]
    # A person is most of a photo too often to be its name.
    assert rows_of(folder / "coco_unlabelled_names.jsonl") == []
    assert "An apple a." in [
        row["captions"][0] for row in rows_of(folder / "imagenet_samples.jsonl")
    ]
    asked = rows_of(folder / "there.jsonl")
    assert [(row["question"], row["answers"]) for row in asked] == [
        ("Is there a dog in the image?", ["yes"])
    ] * 3


def test_shapes_have_photos_for_validation(folder: Path) -> None:
    rows = rows_of(folder / "easy_vqa" / "questions.jsonl")
    assert len(rows) == 38575
    images = {
        split: {r["image"] for r in rows if r["split"] == split} for split in ("train", "val")
    }
    assert not images["train"] & images["val"]
    assert 150 < len(images["val"]) < 250
    assert len(list((folder / "easy_vqa" / "images").iterdir())) == 4000

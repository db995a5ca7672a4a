"""Photos with a text file beside each."""

import tarfile
from pathlib import Path

import pandas
import pytest

from tests.data_folders import asked, captions, read, reasons, save_photos
from vlm.data.photos import FilePhoto
from vlm.data.sample import Sample
from vlm.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_photos(tmp_path, "b.JPG", "deep/a.b.png")
    (tmp_path / "b.txt").write_text("a dog runs\n\n two dogs\n", encoding="utf-8")
    (tmp_path / "deep/a.b.txt").write_text("ein Kätzchen", encoding="utf-8")
    return tmp_path


def test_a_text_is_a_caption_or_each_line_of_it_is(folder: Path) -> None:
    (folder / "notes.md").touch()
    found = read(folder, questions=["What?"], caption_per_line=True)
    assert (found.format, found.skipped) == ("sidecar", [])
    dog, cat = folder / "b.JPG", folder / "deep/a.b.png"
    assert found.usable == [
        Sample(str(dog), (FilePhoto(dog),), captions("a dog runs", "two dogs"), ("What?",)),
        Sample(str(cat), (FilePhoto(cat),), captions("ein Kätzchen"), ("What?",)),
    ]
    whole = captions("a dog runs\n\n two dogs")
    assert [sample.conversations for sample in read(folder).usable] == [
        whole,
        captions("ein Kätzchen"),
    ]
    (folder / "b.txt").rename(folder / "b.caption")
    assert read(folder).usable[0].conversations == whole


def test_jfif_is_a_photo(tmp_path: Path) -> None:
    save_photos(tmp_path, "folder/a.jfif", "folder/B.JFIF")
    for name in ("a.txt", "B.txt"):
        (tmp_path / "folder" / name).write_text("A dog.")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(tmp_path / "folder", "folder")
    for place in (tmp_path / "folder", tmp_path / "shard.tar"):
        assert len(read(place).usable) == 2


def test_what_is_skipped(folder: Path) -> None:
    save_photos(folder, "c.png", "d.png", "e.png")
    (folder / "d.txt").write_text(" \n")
    (folder / "e.txt").write_bytes(b"\xff")
    (folder / "f.txt").write_text("a bus")
    found = read(folder)
    assert len(found.usable) == 2
    decoding = "e.txt: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
    assert reasons(found, folder) == [
        ("c.png", "no text beside the photo", "c.txt: No such file or directory"),
        ("d.png", "blank caption", ""),
        ("e.png", "caption is not text", decoding),
        ("f.txt", "missing image", "no photo beside f.txt"),
    ]


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path) -> None:
    save_photos(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa dog runs\r\n")
    (sample,) = read(tmp_path).usable
    assert sample.conversations == captions("a dog runs")


def test_links_to_folders_are_followed_each_folder_once(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    save_photos(elsewhere, "c.png")
    (elsewhere / "c.txt").write_text("a bus")
    for name, target in (("link", elsewhere), ("link2", elsewhere), ("deep/back", folder)):
        (folder / name).symlink_to(target)
    (elsewhere / "also_back").symlink_to(folder / "deep")
    found = read(folder)
    assert [sample.where for sample in found.usable] == [
        f"{folder}/{name}" for name in ("b.JPG", "deep/a.b.png", "link/c.png")
    ]
    assert found.skipped == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^cannot read .*none: No such file or directory$"):
        read(tmp_path / "none", format="sidecar")


@pytest.mark.parametrize(
    "labels",
    [
        "0 0.5 0.5 0.25 0.3\n",
        "0 0.5 0.5 0.25 0.3\n17 0.1 0.2 1 1\n\n0 0 0 1 1",
        "3 .1 0.1 0 0 1e-3 1\n",
    ],
)
def test_boxes_of_yolo_are_no_captions(tmp_path: Path, labels: str) -> None:
    save_photos(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text(labels)
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: no sample can be used: 1 YOLO's boxes, not a caption; the first is "
        f"{tmp_path}/a.png {labels.splitlines()[0]!r}: give captions, or the boxes in COCO's form"
    )


@pytest.mark.parametrize("text", ["2 cats", "1 2 3 4 5", "1.5 0.5 0.5 0.2 0.3", "0 0.5 0.5 0.2"])
def test_numbers_that_are_captions(tmp_path: Path, text: str) -> None:
    save_photos(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text(text)
    assert read(tmp_path).usable[0].conversations == captions(text)


def test_files_of_img2dataset(tmp_path: Path) -> None:
    save_photos(tmp_path, "00000/000000000.jpg")
    (tmp_path / "00000/000000000.txt").write_text("a cat")
    (tmp_path / "00000/000000000.json").write_text('{"caption": "a cat", "status": "success"}')
    for name in ("00000.parquet", "00000_stats.json"):
        (tmp_path / name).touch()
    found = read(tmp_path)
    assert (found.format, found.usable[0].conversations) == ("sidecar", captions("a cat"))


def metadata(folder: Path, kind: str, **columns: list[object]) -> None:
    frame = pandas.DataFrame(columns)
    writers = {
        "jsonl": lambda file: frame.to_json(file, orient="records", lines=True),
        "csv": lambda file: frame.to_csv(file, index=False),
        "parquet": frame.to_parquet,
    }
    writers[kind](folder / f"metadata.{kind}")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_image_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path.with_name("cache"))
    save_photos(tmp_path, "train/a.png", "test/deep/b.png")
    names = {"train": ["a.png", "../a.png", "c.png"], "test": ["deep/b.png"]}
    for split, files in names.items():
        metadata(tmp_path / split, kind, file_name=files, text=["a cat"] * len(files))
    found = read(tmp_path)
    assert found.format == "imagefolder"
    assert [sample.photos[0].path for sample in found.usable] == [
        tmp_path / "test/deep/b.png",
        tmp_path / "train/a.png",
    ]
    assert found.usable[0].conversations == captions("a cat")
    assert [one.reason for one in found.skipped] == [
        "image path leaves its folder",
        "missing image",
    ]
    assert len(read(tmp_path, split="train").usable) == 1
    with pytest.raises(DataError, match=r"no sample in split 'val'; there are: test, train$"):
        read(tmp_path, split="val")
    # A file of it, alone.
    assert len(read(tmp_path / f"test/metadata.{kind}").usable) == 1


def test_an_image_folder_of_questions(tmp_path: Path) -> None:
    save_photos(tmp_path, "a.png")
    metadata(tmp_path, "csv", file_name=["a.png"], question=["Who?"], answer=["cat"])
    assert read(tmp_path).usable[0].conversations == (asked("Who?", "cat"),)
    (tmp_path / "a.txt").write_text("a cat")
    with pytest.raises(DataError, match=r"say how to read it, `format:` imagefolder or sidecar$"):
        read(tmp_path)
    assert read(tmp_path, format="sidecar").usable[0].conversations == captions("a cat")


def test_a_folder_of_photos_with_two_tables_of_them(tmp_path: Path) -> None:
    save_photos(tmp_path, "a.png")
    for kind in ("csv", "jsonl"):
        metadata(tmp_path, kind, file_name=["a.png"], text=["a cat"])
    told = r"metadata\.csv and metadata\.jsonl: a folder has one of them, join the two$"
    with pytest.raises(DataError, match=told):
        read(tmp_path)

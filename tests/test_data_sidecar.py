"""Photos with a text file beside each."""

import tarfile
from pathlib import Path

import pytest

from tests.data_folders import captions, read, reasons, save_photos
from vlm.data.photos import FilePhoto
from vlm.data.sample import Sample
from vlm.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_photos(tmp_path, "b.JPG", "deep/a.b.png")
    (tmp_path / "b.txt").write_text("a dog runs\n\n two dogs\n", encoding="utf-8")
    (tmp_path / "deep/a.b.txt").write_text("ein Kätzchen", encoding="utf-8")
    return tmp_path


def test_every_line_is_a_caption(folder: Path) -> None:
    (folder / "notes.md").touch()
    found = read(folder, questions=["What?"])
    assert (found.format, found.skipped) == ("sidecar", [])
    dog, cat = folder / "b.JPG", folder / "deep/a.b.png"
    assert found.usable == [
        Sample(str(dog), (FilePhoto(dog),), captions("A dog runs.", "Two dogs."), ("What?",)),
        Sample(str(cat), (FilePhoto(cat),), captions("Ein Kätzchen."), ("What?",)),
    ]


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
        ("d.png", "no captions", ""),
        ("e.png", "caption is not text", decoding),
        ("f.txt", "missing image", "no photo beside f.txt"),
    ]


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path) -> None:
    save_photos(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa dog runs\r\n")
    (sample,) = read(tmp_path).usable
    assert sample.conversations == captions("A dog runs.")


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

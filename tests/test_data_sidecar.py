"""Photos with a text file beside each."""

from pathlib import Path

import pytest

from tests.data_folders import captions, read, reasons, save_photos
from train.data.photos import FilePhoto
from train.data.sample import Sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_photos(tmp_path, "b.JPG", "deep/a.b.png")
    (tmp_path / "b.txt").write_text("a dog runs\n\n two dogs\n", encoding="utf-8")
    (tmp_path / "deep/a.b.txt").write_text("ein Kätzchen", encoding="utf-8")
    return tmp_path


def test_every_line_is_a_caption(folder: Path) -> None:
    (folder / "notes.md").touch()
    found = read(folder, questions=["What?"])
    assert (found.format, found.set_aside) == ("sidecar", [])
    dog, cat = folder / "b.JPG", folder / "deep/a.b.png"
    assert found.usable == [
        Sample(str(dog), (FilePhoto(dog),), captions("A dog runs.", "Two dogs."), ("What?",)),
        Sample(str(cat), (FilePhoto(cat),), captions("Ein Kätzchen."), ("What?",)),
    ]


def test_what_is_set_aside(folder: Path) -> None:
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

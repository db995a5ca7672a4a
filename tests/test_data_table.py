"""CSV and TSV."""

from pathlib import Path

import pytest

from tests.data_folders import asked, captions, read, reasons, save_photos
from vlm.data.photos import FilePhoto
from vlm.data.sample import Sample
from vlm.data.source import Columns
from vlm.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_photos(tmp_path, "images/a.png", "images/b.png")
    return tmp_path


def table(folder: Path, *lines: str) -> Path:
    (folder / "data").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder / "data"


def test_comma_separated_captions(folder: Path) -> None:
    file = table(
        folder, "\ufeffid,image,caption", '1,a.png,"a cat, ""Tom"",\nsits"', "2,b.png,a dog"
    )
    assert read(file, questions=["What?"]).usable == [
        Sample(
            f"{file}, line 2",
            (FilePhoto(folder / "images/a.png"),),
            captions('A cat, "Tom", sits.'),
            ("What?",),
        ),
        Sample(
            f"{file}, line 4",
            (FilePhoto(folder / "images/b.png"),),
            captions("A dog."),
            ("What?",),
        ),
    ]


def test_rows_are_told_by_their_first_line(folder: Path) -> None:
    file = table(folder, "image,caption", "", 'a.png,"a', "", 'cat"', "", "", "b.png,a dog", "x,")
    found = read(file)
    assert [sample.where for sample in found.usable] == [f"{file}, line 3", f"{file}, line 8"]
    assert [one.where for one in found.skipped] == [f"{file}, line 9"]


def test_tab_separated_questions(folder: Path) -> None:
    file = table(folder, "q\tfile\ta, b", "Who, and why?\ta.png\tcat, dog", "What?\tb.png\tdog")
    columns = Columns(image="file", question="q", answer="a, b")
    found = read(file, columns=columns, instruction="Use one word.")
    assert [sample.conversations for sample in found.usable] == [
        (asked("Who, and why?\nUse one word.", "cat, dog"),),
        (asked("What?\nUse one word.", "dog"),),
    ]
    assert found.usable[0].questions == ()


def test_columns_of_kinds(folder: Path) -> None:
    file = table(folder, "image,q,a,category,type", "a.png,Who?,cat,pets,", "b.png,Who?,dog,,1")
    found = read(file, columns=Columns(question="q", answer="a"))
    assert [sample.kinds for sample in found.usable] == [({"category": "pets"},), ({"type": "1"},)]


def test_a_split_is_a_column(folder: Path) -> None:
    file = table(folder, "image,caption,split", "a.png,a cat,val", "b.png,a dog,train")
    assert [sample.where for sample in read(file, split="train").usable] == [f"{file}, line 3"]
    with pytest.raises(DataError, match=r"no sample in split 'test'; there are: train, val$"):
        read(file, split="test")
    with pytest.raises(DataError, match="data: columns: split missing; found image, caption, exp"):
        read(table(folder, "image,caption", "a.png,a cat"), split="train")


def test_rows_that_are_skipped(folder: Path) -> None:
    file = table(
        folder,
        "image,caption",
        "a.png,a cat",
        "b.png,a dog, running",
        "b.png",
        "b.png,",
        "c.png,a bus",
    )
    assert reasons(read(file), folder) == [
        ("data, line 3", "row and header differ in length", ""),
        ("data, line 4", "row and header differ in length", ""),
        ("data, line 5", "empty caption", ""),
        ("data, line 6", "missing image", "c.png"),
    ]


def test_wrong_columns(folder: Path) -> None:
    file = table(folder, "file,text", "a.png,a cat")
    with pytest.raises(DataError) as error:
        read(file)
    assert str(error.value) == (
        f"{file}: columns: image, caption missing; found file, text, expected image, caption"
    )
    with pytest.raises(
        DataError, match="columns: q, a missing; found file, text, expected file, q"
    ):
        read(file, columns=Columns(image="file", question="q", answer="a"))


def test_columns_of_one_name(folder: Path) -> None:
    file = table(folder, "image,caption,caption", "a.png,a cat,a dog")
    with pytest.raises(
        DataError,
        match=f"^{file}: columns: 2 are named caption; found image, caption, caption; give each a "
        "name of its own$",
    ):
        read(file)
    unused = table(folder, "image,caption,,", "a.png,a cat,1,2")
    assert [sample.conversations for sample in read(unused).usable] == [captions("A cat.")]


def test_what_is_not_a_table(folder: Path) -> None:
    file = table(folder, "image,caption", "a.png,a cat", 'b.png,"a dog', "a.png,a cat")
    with pytest.raises(DataError, match=r"data, from line 3: not a table: unexpected end of data$"):
        read(file)
    (folder / "data").write_bytes(b"image,caption\na.png,caf\xe9\n")
    with pytest.raises(DataError, match="not a table: 'utf-8' codec can't decode byte 0xe9"):
        read(file)
    with pytest.raises(DataError, match=r"^cannot read .*none: No such file or directory$"):
        read(folder / "none", format="table")
    (folder / "empty").touch()
    with pytest.raises(DataError, match="columns: image, caption missing; found nothing, expected"):
        read(folder / "empty", format="table")

"""CSV and TSV."""

import json
from pathlib import Path

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data_folders import asked, captions, read, reasons, save_photos
from vlm.data.photos import FilePhoto
from vlm.data.rows import listed_in
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
            captions('a cat, "Tom",\nsits'),
            ("What?",),
        ),
        Sample(
            f"{file}, line 4",
            (FilePhoto(folder / "images/b.png"),),
            captions("a dog"),
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


def test_a_caption_whose_question_is_blank_answers_those_of_the_source(folder: Path) -> None:
    file = table(folder, "image,caption,question", "a.png,a cat,Who?", "b.png,a dog,")
    found = read(file, questions=["What?"])
    assert [sample.questions for sample in found.usable] == [("Who?",), ("What?",)]


def test_the_photos_of_a_conversation_as_a_list(folder: Path) -> None:
    said = "\"[{'from': 'human', 'value': 'Who?'}, {'from': 'gpt', 'value': 'A cat.'}]\""
    (sample,) = read(table(folder, "image,conversations", f"['a.png'],{said}")).usable
    assert sample.photos == (FilePhoto(folder / "images/a.png"),)
    assert sample.conversations == (asked("Who?", "A cat."),)


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
        ("data, line 5", "blank caption", ""),
        ("data, line 6", "missing image", "c.png"),
    ]


def test_wrong_columns(folder: Path) -> None:
    file = table(folder, "file,text", "a.png,a cat")
    with pytest.raises(DataError) as error:
        read(file)
    assert str(error.value) == (
        f"{file}: columns: image (or file_name) missing; found file, text; "
        "`columns:` says which is which"
    )
    with pytest.raises(
        DataError, match="columns: q and a missing; found file, text; `columns:` sa"
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
    assert [sample.conversations for sample in read(unused).usable] == [captions("a cat")]


@given(texts=st.lists(st.text(max_size=8), min_size=1, max_size=4))
def test_lists_that_are_written_as_text(texts: list[str]) -> None:
    arrays = str(texts), str(numpy.array(texts, dtype=object)), json.dumps(texts)
    assert [listed_in(f" {text}\n") for text in arrays] == [texts] * 3
    assert listed_in(str(tuple(texts))) == texts
    assert listed_in(str(set(texts))) == sorted(set(texts))


@pytest.mark.parametrize(
    "cell",
    [
        *("[sic]", "[a] 'b' [c]", "['a' + 'b']", "['a', 'b'", "{1}", "[{{}}]", r"['a\/b']", 3),
        *("(1, 2)", "('a')", "(sic)"),
        *("[1, 2]", "[[1, 2], [3, 4]]", "[1 2]", "[" * 1000 + "]" * 1000),
        *("['" + "\\'" * 60_000 + "]", "[" + "'a'," * 60_000 + "]"),
    ],
)
def test_text_with_brackets_is_text(cell: object) -> None:
    assert listed_in(cell) is cell


def test_lists_in_a_table_of_pandas(folder: Path) -> None:
    answers = [{"answer": "cat", "answer_id": 1}, {"answer": "dog", "answer_id": 2}]
    rows = {"image": ["a.png"], "caption": [["A cat.", "It's a cat."]]}
    pandas.DataFrame(rows).to_csv(folder / "data", index=False)
    assert read(folder / "data").usable[0].conversations == captions("A cat.", "It's a cat.")
    rows |= {"caption": [numpy.array(["A cat.", "A grey cat."])]}
    pandas.DataFrame(rows).to_csv(folder / "data", sep="\t")
    assert read(folder / "data").usable[0].conversations == captions("A cat.", "A grey cat.")
    rows = {"file_name": ["b.png"], "question": ["Who?"], "answers": [answers]}
    pandas.DataFrame(rows).to_csv(folder / "data")
    assert read(folder / "data").usable[0].conversations == (asked("Who?", "cat"),)
    rows |= {"answers": [numpy.array(answers)]}
    pandas.DataFrame(rows).to_csv(folder / "data")
    assert read(folder / "data").usable[0].conversations == (asked("Who?", "cat"),)
    rows |= {"answers": ['{"box": [1, 2]}']}
    pandas.DataFrame(rows).to_csv(folder / "data")
    assert read(folder / "data").usable[0].conversations == (asked("Who?", '{"box": [1, 2]}'),)
    rows |= {"answers": "dog", "choices": [["cat", "dog"]], "split": ["train"]}
    pandas.DataFrame(rows).to_csv(folder / "packed", compression="gzip", index=False)
    (sample,) = read(folder / "packed", split="train").usable
    assert sample.answers == (("B",),)


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
    with pytest.raises(
        DataError, match=r"columns: image \(or file_name\) and .* missing; found noth"
    ):
        read(folder / "empty", format="table")

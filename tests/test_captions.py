"""Captions files: what is read, and what is refused with which message."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm.data.captioned import CaptionedImage, read_captions, write_records
from vlm.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("images/a.jpg", "images/b.jpg", "c.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, *lines: object) -> Path:
    file = folder / "captions.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return file


def test_reads_photos_beside_the_file_and_in_images(folder: Path) -> None:
    file = write(
        folder,
        {"image": "a.jpg", "captions": ["A cat.", "Ein Kätzchen."], "split": "train"},
        {"image": "images/b.jpg", "captions": ["A dog."], "question": "What is this?"},
        "",
        {"image": "c.jpg", "captions": ["A bus."]},
    )
    assert read_captions(file) == [
        CaptionedImage(folder / "images/a.jpg", ["A cat.", "Ein Kätzchen."], "train", None),
        CaptionedImage(folder / "images/b.jpg", ["A dog."], None, "What is this?"),
        CaptionedImage(folder / "c.jpg", ["A bus."], None, None),
    ]


def test_a_split_is_only_that_split(folder: Path) -> None:
    file = write(
        folder,
        {"image": "a.jpg", "captions": ["A cat."], "split": "train"},
        {"image": "b.jpg", "captions": ["A dog."], "split": "test"},
    )
    assert [item.image.name for item in read_captions(file, "test")] == ["b.jpg"]
    with pytest.raises(DataError, match=r"no photo in split 'val'; there are: test, train$"):
        read_captions(file, "val")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ([1], "line 2: a JSON object is needed, not list"),
        (
            {"image": "a.jpg", "text": "A cat."},
            "line 2: captions missing; found image, text, expected image, captions",
        ),
        ({"image": 3, "captions": ["A cat."]}, "line 2: 'image' must be a non-empty string"),
        ({"image": "a.jpg", "captions": "A cat."}, "line 2: 'captions' must be a non-empty list"),
        ({"image": "a.jpg", "captions": []}, "line 2: 'captions' must be a non-empty list"),
        ({"image": "a.jpg", "captions": ["A.", " "]}, "line 2: every caption must be a non-empty"),
        ({"image": "a.jpg", "captions": ["A."], "split": 1}, "line 2: 'split' must be a non-empty"),
        (
            {"image": "../a.jpg", "captions": ["A."]},
            "line 2: image '../a.jpg' must be a path inside",
        ),
        ({"image": "/a.jpg", "captions": ["A."]}, "line 2: image '/a.jpg' must be a path inside"),
    ],
)
def test_a_bad_line_is_named(folder: Path, line: object, message: str) -> None:
    file = write(folder, {"image": "a.jpg", "captions": ["A cat."]}, line)
    with pytest.raises(DataError) as error:
        read_captions(file)
    assert str(error.value).startswith(f"{file}, {message}")


def test_missing_photos_are_named_and_counted(folder: Path) -> None:
    lines = [{"image": f"{index}.jpg", "captions": ["A cat."]} for index in range(7)]
    file = write(folder, {"image": "a.jpg", "captions": ["A cat."]}, *lines)
    message = r"7 of 8 images missing: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, \.\.\.$"
    with pytest.raises(DataError, match=message):
        read_captions(file)


def test_a_file_that_is_empty_or_not_there(folder: Path) -> None:
    with pytest.raises(DataError, match=r"captions\.jsonl is empty: it needs one JSON object"):
        read_captions(write(folder))
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl: No such file"):
        read_captions(folder / "none.jsonl")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
records = st.fixed_dictionaries(
    {"image": json_values | st.just("a.jpg"), "captions": json_values | st.just(["A cat."])},
    optional={"split": json_values},
)


@given(record=records | json_values)
def test_any_json_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, record: object
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "a.jpg").touch()
    try:
        (item,) = read_captions(write(folder, record))
    except DataError:
        return
    assert item.image.is_relative_to(folder)
    assert item.captions == record["captions"]


@given(content=st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError):
        read_captions(file)


def test_records_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "records.jsonl"
    write_records(file, [{"text": "one\ntwo \ud800 é"}])
    before = file.read_bytes()
    assert json.loads(before) == {"text": "one\ntwo \ud800 é"}

    def crash() -> Iterator[dict[str, str]]:
        yield {"text": "half"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(file, crash())
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*records\.jsonl"):
        write_records(tmp_path / "file" / "records.jsonl", [])

"""What all formats have in common: finding the format, splits, limits, image folders, errors."""

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest

from tests.data_folders import captions, read, reasons, save_json, save_lines, save_photos
from vlm.data.formats import format_of
from vlm.data.photos import FilePhoto
from vlm.data.read import READERS, read_sources, read_whole
from vlm.data.source import QUESTIONS, Columns, DataSource, Format
from vlm.errors import ConfigError, DataError, shortened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_photos(tmp_path, "images/a.png", "images/b.png", "c.png")
    return tmp_path


CAT = {"image": "a.png", "captions": ["a cat"]}
DOG = {"image": "b.png", "captions": ["a dog"]}


@pytest.mark.parametrize(
    ("content", "format"),
    [
        ('{"conversations": []}', "conversations"),
        ('[\n  {"id": 1,\n   "conversations": []}]', "conversations"),
        ('{"image": "a", "captions": [], "question": "?"}\n{', "captions"),
        ('\ufeff{"image": 1, "captions": []}', "captions"),
        ('{"file_name": "a", "text": "b"}', "captions"),
        ('{"images": ["a"], "question": "?", "answers": []}', "questions"),
        ('{"image": 1, "text": "b", "question": "?", "answer": "x", "answers": []}', "questions"),
        ('{"questions": [], "info": {}}', "vqa"),
        ('{"annotations": [], "images": [], "info": {}}', "coco"),
        ('{"annotations": [], "images": [], "categories": []}', "instances"),
        ('{"annotations": [{"caption": ""}], "images": [], "categories": []}', "coco"),
        (json.dumps({"info": "x" * 70_000, "questions": []}), "vqa"),
        (json.dumps([{"id": "x" * 70_000, "conversations": []}]), "conversations"),
        (json.dumps([{"id": "x" * 70_000, "conversations": []}], indent=1), "conversations"),
        ('\n{"image": 1, "caption": "' + "x" * 70_000 + '"}\n{"captions": []}\n', "captions"),
        ("image,caption\n", "table"),
        ("image\tcaption, with a comma\n", "table"),
    ],
)
def test_a_file_is_known_by_its_content(tmp_path: Path, content: str, format: str) -> None:
    for name in ("data", "captions.jsonl", "data.csv"):
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert format_of(DataSource(str(tmp_path / name))) == format


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", " is empty"),
        ("a cat\na dog\n", "nor a tar file; it begins with 'a cat'"),
        ("{", ": not JSON: Expecting property name"),
        ("[1]", ": a JSON object is needed, not int"),
        ("[]", " holds no samples: it is an empty list"),
        ("[[]]", ": a JSON object is needed, not list"),
        (
            '{"image": "a", "label": 3}',
            ": captions, caption or text (or question with answers or answer) missing; "
            "found image, label; `columns:` says which is which; other forms: conversations, "
            "messages, VQA v2, COCO",
        ),
        ('{"text": "a cat"}', ": image (or file_name) missing; found text; `columns:` says"),
        (
            '{"image": "a", "question": "?", "answer": "b", "caption": "c"}',
            ": found caption, and question with answer; say which to read: "
            "`columns: {text: caption}`, or `{question: question, answer: answer}`",
        ),
        ('{"questions": [], "messages": []}', " may be conversations or vqa: say which in `format"),
        ("{}", ": image (or file_name) and captions, caption or text (or question with"),
    ],
)
def test_a_file_of_no_or_several_formats(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "data").write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read(tmp_path / "data")
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "data"))


EXPECTED = (
    "; expected photos with .txt or metadata.jsonl beside them, .tar shards, .parquet, or a data "
    "set that `datasets` saved; to read a file inside, give its own path"
)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], f"nothing{EXPECTED}"),
        (["a.png", "b.jsonl"], f".jsonl, .png{EXPECTED}, such as b.jsonl"),
        (["a.png", "classes.txt"], f".png, .txt{EXPECTED}"),
        (
            ["a.tar", "a.png", "a.txt"],
            ".png, .tar, .txt: say how to read it, `format:` shards or sidecar",
        ),
    ],
)
def test_a_folder_of_no_or_several_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in names:
        Path(name).touch()
    with pytest.raises(DataError) as error:
        read(".")
    assert str(error.value) == f". holds {told}"


def test_an_id_on_the_hub_may_have_dots() -> None:
    assert format_of(DataSource("lmms-lab/LLaVA-1.5.data")) == "dataset"


@pytest.mark.parametrize(
    "path",
    ["none.jsonl", "my/none.jsonl", "my/x.parquet", "some/deeper/folder", "/absolute/none", "none"],
)
def test_nothing_there(path: str) -> None:
    with pytest.raises(DataError, match=f"^no data at '{path}': no such file or folder$"):
        read(path)


@contextmanager
def not_root() -> Iterator[None]:
    """Root may read anything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("format", [None, "captions", "sidecar", "shards"])
def test_what_may_not_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Format | None
) -> None:
    # Named from inside: the folders above are pytest's, for its user alone.
    monkeypatch.chdir(tmp_path)
    for path in ("side/a.png", "side/a.txt", "side/locked/b.png", "locked/c.tar"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    save_lines(Path("lines"), CAT)
    for path in ("side/locked", "locked", "lines"):
        Path(path).chmod(0)
    tmp_path.chmod(0o755)
    paths = {
        None: ["lines", "locked", "side", "locked/c.tar"],
        "captions": ["lines"],
        "sidecar": ["side", "locked"],
        "shards": ["locked"],
    }
    try:
        for path in paths[format]:
            with not_root(), pytest.raises(DataError) as error:
                read(path, format=format)
            assert str(error.value).endswith(": Permission denied")
            assert str(error.value).startswith("cannot read ")
            assert "\n" not in str(error.value)
    finally:
        for path in ("side/locked", "locked"):
            Path(path).chmod(0o700)


def test_a_compressed_file_that_is_cut_off(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps(CAT).encode() * 100)
    (tmp_path / "data").write_bytes(whole[:40])
    with pytest.raises(DataError) as error:
        read(tmp_path / "data")
    assert str(error.value) == (
        f"{tmp_path / 'data'} is compressed, and cut off or damaged: get it whole"
    )


@pytest.mark.parametrize("name", ["data.jsonl.gz", "data.json.gz", "data"])
def test_a_compressed_file(folder: Path, name: str) -> None:
    content = json.dumps([CAT]) if ".json." in name else f"\ufeff{json.dumps(CAT)}\n" * 2
    (folder / name).write_bytes(gzip.compress(content.encode()))
    first, *_ = read(folder / name).usable
    assert first.conversations == captions("a cat")
    assert first.where.endswith("record 1" if ".json." in name else "line 1")


def test_a_named_format_is_not_second_guessed(folder: Path) -> None:
    file = save_lines(folder / "data", CAT)
    with pytest.raises(DataError, match=r"line 1: conversations missing; found image, captions, e"):
        read(file, format="conversations")


def test_every_format_has_a_reader() -> None:
    assert READERS.keys() == set(get_args(Format))


def test_sources_keep_their_order_and_limits(folder: Path) -> None:
    missing = {"image": "z.png", "captions": ["a horse"]}
    file = str(save_lines(folder / "data", missing, CAT, DOG))
    first, both = read_sources([DataSource(file, limit=1, questions=["What?"]), DataSource(file)])
    assert [sample.conversations for sample in first.usable] == [captions("a cat")]
    assert [sample.conversations for sample in both.usable] == [
        captions("a cat"),
        captions("a dog"),
    ]
    assert first.usable[0].questions == ("What?",)
    assert both.usable[0].questions == tuple(QUESTIONS)
    assert (first.format, first.source.limit) == ("captions", 1)
    expected = [("data, line 1", "missing image", "z.png")]
    assert reasons(first, folder) == reasons(both, folder) == expected


def test_a_split_is_only_that_split(folder: Path) -> None:
    file = save_lines(folder / "data", CAT | {"split": "val"}, DOG | {"split": "train"}, CAT)
    assert [sample.where for sample in read(file, split="train").usable] == [f"{file}, line 2"]
    assert len(read(file).usable) == 3
    with pytest.raises(DataError, match=r"data: no sample in split 'test'; there are: train, val$"):
        read(file, split="test")
    numbers = save_lines(folder / "numbers", CAT | {"split": 1}, DOG | {"split": 2})
    assert [sample.where for sample in read(numbers, split="1").usable] == [f"{numbers}, line 1"]
    with pytest.raises(DataError, match=r"no sample in split '3'; there are: 1, 2$"):
        read(numbers, split="3")
    with pytest.raises(DataError, match=r"no sample in split 'test'; there are: no splits$"):
        read(save_lines(folder / "data", CAT), split="test")


def test_image_paths_start_beside_the_file_or_in_images(folder: Path) -> None:
    (folder / "images/c.png").write_bytes((folder / "c.png").read_bytes())
    names = ["a.png", "images/b.png", "c.png"]
    file = save_lines(folder / "data", *(CAT | {"image": name} for name in names))
    photos = [sample.photos for sample in read(file).usable]
    assert photos == [
        (FilePhoto(folder / "images" / name),) for name in ("a.png", "b.png", "c.png")
    ]


def test_image_paths_start_in_the_folder_that_is_named(folder: Path) -> None:
    save_photos(folder, "other/a.png")
    file = save_lines(folder / "data", CAT, DOG)
    found = read(file, images=folder / "other")
    assert [sample.photos for sample in found.usable] == [(FilePhoto(folder / "other/a.png"),)]
    assert reasons(found, folder) == [("data, line 2", "missing image", "b.png")]
    with pytest.raises(DataError, match=r"^no folder .*none for the images of .*data$"):
        read(file, images=folder / "none")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("none.png", "missing image"),
        ("images", "missing image"),
        ("x" * 10_000, "missing image"),
        ("a\0.png", "missing image"),
        ("/etc/passwd", "image path leaves its folder"),
        ("../data", "image path leaves its folder"),
        ("images/../../data", "image path leaves its folder"),
        ("", "image is not a path"),
        (3, "image is not a path"),
        (None, "image is not a path"),
        ([3, "a.png"], "image is not a path"),
    ],
)
def test_an_image_that_cannot_be_used_is_skipped(folder: Path, image: object, reason: str) -> None:
    file = save_lines(folder / "data", CAT, CAT | {"image": image})
    ((where, found, detail),) = reasons(read(file), folder)
    assert (where, found) == ("data, line 2", reason)
    assert detail in (repr(image), shortened(str(image), 100), "3")


def test_a_source_without_a_usable_sample(folder: Path) -> None:
    file = save_lines(folder / "data", DOG | {"captions": []}, CAT | {"image": "z"}, DOG | CAT)
    save_lines(file, DOG | {"captions": []}, CAT | {"image": "z"}, CAT | {"captions": [""]})
    save_lines(file, *file.read_text().splitlines(), CAT | {"image": "y"})
    with pytest.raises(DataError) as error:
        read(file)
    assert str(error.value) == (
        f"{file}: no sample can be used: 2 missing image, 1 no captions, 1 blank caption; "
        "the first is line 1"
    )
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no samples \(read as sidecar\)$"):
        read(folder / "empty", format="sidecar")


def test_evaluation_gets_all_samples_with_all_answers_or_an_error(folder: Path) -> None:
    file = save_lines(folder / "data", CAT | {"captions": ["a cat", " a cat"]})
    (cat,) = read_whole(DataSource(str(file)))
    assert (cat.answers, cat.kinds) == ((("a cat", "a cat"),), ())
    who = {"image": "a.png", "question": "Who?", "answers": ["cat", "Tom"], "kind": "name"}
    file = save_lines(folder / "data", who, who | {"kind": None})
    (cat,) = read_whole(DataSource(str(file)))
    assert (cat.answers, cat.kinds) == ((("cat", "Tom"), ("cat", "Tom")), ({"kind": "name"}, {}))
    save_lines(file, CAT | {"a note": "of words"}, DOG | {"captions": ["a dog", ""]})
    with pytest.raises(DataError, match=r"data, line 2: cannot be used whole: blank caption$"):
        read_whole(DataSource(str(file)))
    save_lines(file, CAT, DOG | {"captions": []}, CAT | {"image": "z"})
    with pytest.raises(DataError) as error:
        read_whole(DataSource(str(file)))
    assert str(error.value) == f"{file}, line 2: no captions (and 1 more cannot be used)"


def test_a_bad_line_is_an_error_with_its_number(folder: Path) -> None:
    with pytest.raises(DataError, match="data, line 2: not JSON: "):
        read(save_lines(folder / "data", CAT, '{"image": '))
    with pytest.raises(DataError, match=r"data, line 2: captions .* missing; found image; "):
        read(save_lines(folder / "data", CAT, {"image": "a.png"}))
    with pytest.raises(DataError, match="data, line 2: a JSON object is needed, not list"):
        read(save_lines(folder / "data", CAT, [CAT]))
    with pytest.raises(DataError, match="data, record 2: a JSON object is needed, not int"):
        read(save_json(folder / "data", [CAT, 3]))
    with pytest.raises(DataError, match=r"data, record 2: captions .* missing; found image; "):
        read(save_json(folder / "data", [CAT, {"image": "a.png"}]))
    with pytest.raises(DataError, match=r"data: not JSON: .*, at its end$"):
        read(save_lines(folder / "data", f"[{json.dumps(CAT)},"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"limit": 0}, "limit of data must be at least 1, not 0"),
        ({"weight": 0.0}, "weight of data must be above 0, not 0.0"),
        ({"weight": float("nan")}, "weight of data must be above 0, not nan"),
        ({"weight": float("inf")}, "weight of data must be above 0, not inf"),
        ({"questions": []}, "data needs at least one question"),
        ({"questions": ["<image>?"]}, "questions of data come behind the photo: leave <image> out"),
    ],
)
def test_settings_out_of_range(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        DataSource("data", **fields)


def test_question_and_answer_columns_go_together() -> None:
    for fields in ({"question": "q"}, {"answer": "a"}):
        with pytest.raises(
            ConfigError, match=r"^columns\.question and columns\.answer go together"
        ):
            Columns(**fields)

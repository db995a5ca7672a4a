"""Hugging Face data sets on disk, with encoded images and with paths."""

import json
import pickle
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets import (
    Audio,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    List,
    NamedSplit,
    Video,
)

from tests import tiny
from tests.data_folders import asked, captions, png, read, reasons, save_photos
from vlm.data.photos import FilePhoto, RowPhoto, decode, digest
from vlm.data.sample import Sample
from vlm.data.source import Columns
from vlm.errors import DataError, ImageError


def save(folder: Path, split: str | None = None, **columns: list[object]) -> Path:
    named = None if split is None else NamedSplit(split)
    Dataset.from_dict(columns, split=named).save_to_disk(folder / "data")
    return folder / "data"


def encoded(count: int) -> list[dict[str, object]]:
    return [{"bytes": png(number), "path": None} for number in range(count)]


def test_encoded_images(tmp_path: Path) -> None:
    folder = save(tmp_path, image=encoded(2), caption=["a cat", "a dog"])
    found = read(folder, questions=["What?"])
    assert found.format == "dataset"
    assert [sample.conversations for sample in found.usable] == [
        captions("a cat"),
        captions("a dog"),
    ]
    assert [sample.where for sample in found.usable] == [f"{folder}, row 0", f"{folder}, row 1"]
    assert found.usable[0].questions == ("What?",)
    for number, sample in enumerate(found.usable):
        (photo,) = sample.photos
        assert photo.data() == png(number)
        assert decode(photo).tobytes() == tiny.photo(number).tobytes()
        assert digest(pickle.loads(pickle.dumps(photo))) == digest(photo)


def test_the_image_feature_and_bare_bytes(tmp_path: Path) -> None:
    columns = {"image": encoded(1), "caption": [["a cat", "a kitten"]]}
    Dataset.from_dict(columns).cast_column("image", Image()).save_to_disk(tmp_path / "images")
    bare = save(tmp_path, image=[png(0)], caption=[["a cat", "a kitten"]])
    listed = tmp_path / "listed"
    Dataset.from_dict(columns | {"image": [[png(0)]]}).save_to_disk(listed)
    for folder in (tmp_path / "images", bare, listed):
        (sample,) = read(folder).usable
        assert sample.conversations == captions("a cat", "a kitten")
        assert sample.photos[0].data() == png(0)


def test_a_class_is_its_name(tmp_path: Path) -> None:
    columns = {"image": encoded(3), "question": ["Who?"] * 3, "answer": [1, -1, None]}
    named = Dataset.from_dict(columns).cast_column("answer", ClassLabel(names=["cat", "dog"]))
    named.save_to_disk(tmp_path / "data")
    found = read(tmp_path / "data")
    assert [sample.answers for sample in found.usable] == [(("dog",),)]
    assert [one.reason for one in found.skipped] == ["no answers"] * 2
    several = Dataset.from_dict(columns | {"answer": [[0, 1, 1], [1, -1], None]})
    several = several.cast_column("answer", List(ClassLabel(names=["cat", "dog"])))
    several.save_to_disk(tmp_path / "lists")
    found = read(tmp_path / "lists")
    assert [sample.answers for sample in found.usable] == [(("cat", "dog", "dog"),), (("dog",),)]


@pytest.mark.skipif(not hasattr(datasets, "Json"), reason="datasets below 4.7 has no such columns")
def test_columns_of_json_are_what_it_says(tmp_path: Path) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "Who?"}]
    talk = [{"role": "user", "content": content}, {"role": "assistant", "content": "A cat."}]
    table = Dataset.from_dict({"image": encoded(1)})
    features = table.features | {"messages": datasets.Json()}
    rows = [{"image": encoded(1)[0], "messages": talk}]
    Dataset.from_list(rows, features=Features(features)).save_to_disk(tmp_path / "data")
    (sample,) = read(tmp_path / "data").usable
    assert sample.conversations == (asked("Who?", "A cat."),)


@pytest.mark.parametrize("kind", [Audio, Video])
def test_sound_and_video_are_not_decoded_to_be_refused(tmp_path: Path, kind: type) -> None:
    columns = {"image": encoded(1), "caption": ["a cat"], "audio": [{"bytes": b"1", "path": "a"}]}
    Dataset.from_dict(columns).cast_column("audio", kind()).save_to_disk(tmp_path / "data")
    with pytest.raises(DataError, match="no sample can be used: 1 unread media 'audio'"):
        read(tmp_path / "data")


def test_paths_start_in_the_folder_or_in_the_one_named(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "../a.png"]
    folder = save(tmp_path, file=names, q=["Who?"] * 3, a=[["cat", "dog", "dog"]] * 3)
    columns = Columns(image="file", question="q", answer="a")
    for root, images in ((folder / "images", None), (tmp_path / "other", tmp_path / "other")):
        save_photos(root, "a.png")
        found = read(folder, images=images, columns=columns, instruction="One word.")
        assert found.usable == [
            Sample(
                f"{folder}, row 0", (FilePhoto(root / "a.png"),), (asked("Who?\nOne word.", "dog"),)
            )
        ]
        assert reasons(found, tmp_path) == [
            ("data, row 1", "missing image", "b.png"),
            ("data, row 2", "image path leaves its folder", "../a.png"),
        ]


def test_images_that_are_files(tmp_path: Path) -> None:
    save_photos(tmp_path, "a.png")
    cells = [{"bytes": None, "path": str(tmp_path / name)} for name in ("a.png", "none.png")]
    cells.append({"bytes": None, "path": None})
    folder = save(tmp_path, image=cells, caption=["a cat"] * 3)
    found = read(folder)
    first, second = (sample.photos[0] for sample in found.usable)
    assert decode(first).tobytes() == tiny.photo(0).tobytes()
    with pytest.raises(ImageError, match=r"^cannot read '.*none\.png': No such file or directory$"):
        decode(second)
    assert reasons(found, tmp_path) == [("data, row 2", "image is not a path", "None")]


def test_images_that_are_files_inside_the_folder(tmp_path: Path) -> None:
    names = ["a.png", "none.png", "../a.png"]
    cells = [{"bytes": None, "path": name} for name in names]
    cells.append({"bytes": png(1), "path": "a.png"})
    folder = save(tmp_path, image=cells, caption=["a cat"] * 4)
    save_photos(folder, "images/a.png")
    found = read(folder)
    first, last = found.usable
    assert first.photos == (FilePhoto(folder / "images/a.png"),)
    assert last.photos[0].data() == png(1)
    assert reasons(found, tmp_path) == [
        ("data, row 1", "missing image", "none.png"),
        ("data, row 2", "image path leaves its folder", "../a.png"),
    ]


def test_splits(tmp_path: Path) -> None:
    parts = {
        name: Dataset.from_dict({"image": encoded(1), "caption": [f"a {name}"]})
        for name in ("train", "test")
    }
    DatasetDict(parts).save_to_disk(tmp_path / "both")
    (sample,) = read(tmp_path / "both", split="test").usable
    assert sample.conversations == captions("a test")
    with pytest.raises(DataError, match=r"both: name one of its splits: train, test$"):
        read(tmp_path / "both")
    with pytest.raises(DataError, match=r"both: no split 'val'; name one of its splits: train, t"):
        read(tmp_path / "both", split="val")
    DatasetDict(train=parts["train"]).save_to_disk(tmp_path / "one")
    assert len(read(tmp_path / "one").usable) == 1

    alone = save(tmp_path, split="train", image=encoded(1), caption=["a cat"])
    assert len(read(alone, split="train").usable) == 1
    with pytest.raises(DataError, match=r"no sample in split 'val'; there are: train$"):
        read(alone, split="val")


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    columns = {"image": encoded(1), "caption": ["a cat"]}
    (tmp_path / "hub/data").mkdir(parents=True)
    file = tmp_path / "hub/data/train-00000-of-00001.parquet"
    Dataset.from_dict(columns).cast_column("image", Image()).to_parquet(file)
    found = read(tmp_path / "hub")
    assert found.format == "dataset"
    assert found.usable[0].conversations == captions("a cat")
    assert isinstance(found.usable[0].photos[0], RowPhoto)


def test_parquet_with_large_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, images in (
        ("paths", pyarrow.array(["a.png"], pyarrow.large_string())),
        ("bytes", pyarrow.array([png(0)], pyarrow.large_binary())),
    ):
        save_photos(tmp_path / name, "a.png")
        texts = pyarrow.array(["a cat"], pyarrow.large_string())
        table = pyarrow.table({"image": images, "caption": texts})
        pyarrow.parquet.write_table(table, tmp_path / name / "data.parquet")
        (sample,) = read(tmp_path / name, format="dataset").usable
        assert sample.conversations == captions("a cat")
        assert decode(sample.photos[0]).tobytes() == tiny.photo(0).tobytes()


def test_rows_that_are_skipped(tmp_path: Path) -> None:
    texts = [["a cat"], [], [""], None]
    found = read(save(tmp_path, image=encoded(4), caption=texts))
    assert reasons(found, tmp_path) == [
        ("data, row 1", "no captions", ""),
        ("data, row 2", "blank caption", ""),
        ("data, row 3", "no captions", ""),
    ]


def test_wrong_columns(tmp_path: Path) -> None:
    folder = save(tmp_path, picture=encoded(1), text=["a cat"], label=[3])
    message = r"columns: image \(or file_name\) missing; found picture, text, label; `columns:`"
    with pytest.raises(DataError, match=f"data: {message}"):
        read(folder)
    with pytest.raises(DataError, match=r"column label holds .*int64.*; expected images, or paths"):
        read(folder, columns=Columns(image="label", text="text"))


def test_what_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"^cannot read the data set '.*': "):
        read(tmp_path)
    damaged = save(tmp_path, image=["a.png"], caption=["a cat"])
    (damaged / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"^cannot read the data set '.*': '_data_files' \(KeyErro"):
        read(damaged)
    scripted = tmp_path / "scripted"
    scripted.mkdir()
    for name in ("scripted.py", "data.parquet"):
        (scripted / name).touch()
    with pytest.raises(DataError, match=r"^cannot read the data set '.*': .* found scripted\.py"):
        read(scripted)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as error:
        read("nobody/nothing")
    told = "cannot read the data set 'nobody/nothing': no such file or folder, and on the hub: "
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_a_parquet_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    columns = {"image": encoded(1), "caption": ["a cat"]}
    Dataset.from_dict(columns).cast_column("image", Image()).to_parquet(tmp_path / "any.name")
    found = read(tmp_path / "any.name")
    assert (found.format, found.usable[0].conversations) == ("dataset", captions("a cat"))
    save_photos(tmp_path, "images/a.png")
    Dataset.from_dict({"image": ["a.png"], "text": ["a cat"]}).to_parquet(tmp_path / "paths")
    (sample,) = read(tmp_path / "paths").usable
    assert sample.photos == (FilePhoto(tmp_path / "images/a.png"),)


def test_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    lines = ["---", "configs:"]
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        data = Dataset.from_dict({"image": encoded(1), "caption": [f"many {name}"]})
        data.cast_column("image", Image()).to_parquet(folder / name / "train.parquet")
        lines += [f"- config_name: {name}", f"  data_files: {name}/*.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---"]))
    assert read(folder, subset="dogs").usable[0].conversations == captions("many dogs")
    told = r"Config name is missing.*cats.*dogs.*; `subset` names one$"
    with pytest.raises(DataError, match=told):
        read(folder)


TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A cat."}]


@pytest.mark.parametrize(
    "columns",
    [
        {"messages": [TURNS], "images": [encoded(1)]},
        {"messages": [TURNS], "image": encoded(1)},
        {
            "texts": [[{"user": "Who?", "assistant": "A cat.", "source": "x"}]],
            "images": [encoded(1)],
        },
        {"conversations": [json.dumps(TURNS)], "images": [encoded(1)]},
    ],
)
def test_conversations(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    (sample,) = read(save(tmp_path, **columns)).usable
    assert sample.conversations == (asked("Who?", "A cat."),)
    assert sample.photos[0].data() == png(0)
    assert ", image 1" in sample.photos[0].name or "image" in columns


def test_the_photo_of_a_conversation_is_in_the_column_that_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, messages=[TURNS], photo=encoded(1))
    (sample,) = read(folder, columns=Columns(image="photo")).usable
    assert sample.conversations == (asked("Who?", "A cat."),)
    assert sample.photos[0].data() == png(0)
    with pytest.raises(DataError, match=r"columns: picture and captions, .* missing; found mess"):
        read(folder, columns=Columns(image="picture"))


def test_a_conversation_without_a_photo_among_others(tmp_path: Path) -> None:
    columns = {"messages": [TURNS] * 3, "images": [encoded(2), None, []]}
    found = read(save(tmp_path, **columns))
    assert [len(sample.photos) for sample in found.usable] == [2, 0, 0]
    assert found.usable[0].photos[1].data() == png(1)


def test_questions_with_options_and_several_photos(tmp_path: Path) -> None:
    columns = {"question": ["Which?"], "options": ["['cat', 'dog']"], "answer": ["dog"]}
    folder = save(tmp_path, images=[encoded(2)], note=["of two words"], **columns)
    found = read(folder)
    (sample,) = found.usable
    assert (sample.answers, len(sample.photos)) == ((("B",),), 2)
    assert sample.conversations[0][0].parts[:2] == (0, 1)
    assert found.dropped == {"unread key 'note'": 1}


def test_other_images_are_not_left_out_silently(tmp_path: Path) -> None:
    folder = save(tmp_path, image=encoded(1), image_2=encoded(1), caption=["a cat"])
    with pytest.raises(DataError, match=r"1 unread media 'image_2'; .* `columns: {image: N"):
        read(folder)
    (sample,) = read(folder, columns=Columns(image="image_2", text="caption")).usable
    assert sample.photos[0].column == "image_2"

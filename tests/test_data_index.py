"""Indexes of large sources: what they hold is what reading gives, they are made once, and never
trusted when anything has changed."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from tests import tiny_runs
from tests.data_folders import png, read, save_json, save_lines, save_photos
from tests.test_data_coco_vqa import ANNOTATIONS, QUESTIONS
from tests.test_data_coco_vqa import COCO as CAPTIONED
from tests.test_data_instances import COCO as BOXES
from tests.test_data_shards import CAT as CAT_MEMBERS
from tests.test_data_shards import DOG as DOG_MEMBERS
from tests.test_data_shards import save_shard
from train.loader import read_photo
from train.run import train
from vlm.data import index, parts
from vlm.data.index import IndexedSamples, outline
from vlm.data.outline import outline_of
from vlm.data.read import read as read_into
from vlm.data.read import read_source
from vlm.data.sample import Sample, Samples, SkipSample
from vlm.data.source import DataSource
from vlm.errors import DataError

PHOTOS = ("images/a.png", "images/b.png", "c.png")
MADE = "is read into an index, once"
CAT = {"image": "a.png", "captions": ["a cat", "a kitten", ""]}
DOG = {"image": "caf\u00e9.png", "text": "a \U0001f415", "question": "What?"}


def turns(*texts: str) -> dict[str, Any]:
    named = zip(("human", "gpt") * len(texts), texts, strict=False)
    return {"conversations": [{"from": who, "value": text} for who, text in named]}


def asked(image: str, **fields: Any) -> dict[str, Any]:
    return {"image": image, "question": "What?", **fields}


def sidecar(folder: Path) -> Path:
    save_photos(folder / "side", "a.png", "b.png", "deep/c.png")
    (folder / "side/link.png").symlink_to("nowhere")
    for name in ("a", "deep/c"):
        (folder / "side" / f"{name}.txt").write_text("a cat", encoding="utf-8")
    return folder / "side"


def imagefolder(folder: Path) -> Path:
    save_photos(folder / "made", "train/a.png")
    rows = [{"file_name": name, "text": "a cat"} for name in ("a.png", "none.png")]
    save_lines(folder / "made/train/metadata.jsonl", *rows)
    return folder / "made"


def vqa(folder: Path) -> Path:
    save_photos(folder, "images/COCO_train2014_000000000007.jpg", "images/000000000008.jpg")
    save_json(folder / "annotations", ANNOTATIONS)
    return save_json(folder / "data", QUESTIONS)


def dataset(folder: Path) -> Path:
    images = [{"bytes": png(number), "path": None} for number in range(3)]
    columns = {"image": images, "caption": ["a cat", "", "a dog"]}
    Dataset.from_dict(columns).to_parquet(folder / "data.parquet")
    return folder / "data.parquet"


MIXED = [
    {"id": 1, "image": "a.png", **turns("<image>\nWho?", "A cat.", "Why?", "So.")},
    {"id": "text", "system": "Be brief.", **turns("Who?", "Nobody.")},
    {"image": ["a.png", "b.png"], **turns("<image>, <image>?", "Two."), "note": "of words"},
    {"image": "none.png", **turns("<image>\nWho?", "A cat.")},
    {"image": "file:///etc/passwd", **turns("<image>\nWho?", "A cat.")},
    {"image": "data:image/png;base64,AAAA", "type": "odd", **turns("Who?", "A \ud83d\ude00 cat.")},
    turns("Who?"),
]
OPTIONS = asked("b.png", answers=["b"], choices=["cat", "dog"], id=3)
TABLE = 'image,caption\na.png,"a cat"\nb.png,\nnone.png,x\n'
SOURCES: dict[str, Callable[[Path], Path]] = {
    "conversations": lambda folder: save_json(folder / "data", MIXED),
    "captions": lambda folder: save_lines(folder / "data", CAT, CAT | {"image": "c.png"}, DOG),
    "questions": lambda folder: save_lines(
        folder / "data", asked("a.png", answers=["cat", "cat", "Tom"], kind="name"), OPTIONS
    ),
    "table": lambda folder: save_lines(folder / "data", TABLE),
    "sidecar": sidecar,
    "imagefolder": imagefolder,
    "coco": lambda folder: save_json(folder / "data", CAPTIONED),
    "instances": lambda folder: save_json(folder / "data", BOXES),
    "vqa": vqa,
    "dataset": dataset,
    "shards": lambda folder: save_shard(folder / "data.tar", {**CAT_MEMBERS, **DOG_MEMBERS}),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With photos; its sources are large, and have their indexes in `cache` beside it."""
    monkeypatch.setattr(index, "LARGE", 1)
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    save_photos(tmp_path / "data", *PHOTOS)
    return tmp_path / "data"


def content(sample: Sample) -> dict[str, Any]:
    """All of a sample; of its photos, the bytes or why there are none."""
    photos = [(type(photo), photo.name, reason(photo)) for photo in sample.photos]
    return vars(sample) | {"photos": photos}


def reason(photo: Any) -> Any:
    try:
        return photo.data()
    except Exception as error:
        return str(error)


def without_index(source: DataSource) -> Samples:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(index, "LARGE", 1 << 40)
        return read_source(source)


@pytest.mark.parametrize("kind", SOURCES)
def test_an_index_holds_what_reading_gives(folder: Path, kind: str) -> None:
    annotations = folder / "annotations" if kind == "vqa" else None
    source = DataSource(str(SOURCES[kind](folder)), annotations=annotations)
    plain, made, found = without_index(source), read_source(source), read_source(source)
    assert isinstance(plain.usable, list)
    for each in (made, found):
        assert isinstance(each.usable, IndexedSamples)
        assert each.format == plain.format == kind
        assert list(map(content, each.usable)) == list(map(content, plain.usable))
        assert (each.skipped, each.dropped) == (plain.skipped, plain.dropped)
        for one, other in zip(outline(each.usable), outline_of(plain.usable), strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("kind", ["conversations", "captions", "table"])
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_read_what_one_does(
    folder: Path, kind: str, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of 256: the last process has one less, and the second block holds nothing usable.
    texts = ["" if 256 <= at < 512 or at % 7 == 0 else f"a cat {at}" for at in range(1200)]
    if kind == "conversations":
        file = save_json(folder / "data", [MIXED[0] | turns("Who?", text) for text in texts])
    elif kind == "captions":
        file = save_lines(folder / "data", *(CAT | {"captions": [text, ""]} for text in texts))
    else:
        file = save_lines(folder / "data", "image,caption", *(f"a.png,{text}" for text in texts))
    plain = without_index(DataSource(str(file)))
    monkeypatch.setattr(parts, "PARTED", 1)
    monkeypatch.setattr(parts, "cores", lambda: processes)
    found = read(file)
    (made,) = (folder.parent / "cache/sources").glob("*/")
    assert sorted(each.name for each in made.iterdir()) == [
        index.COMPLETE,
        index.SAMPLES,
        index.SOURCE,
    ]
    assert list(found.usable) == plain.usable
    assert len(found.skipped) == len(texts) - len(plain.usable) > 256
    assert (found.skipped, found.dropped) == (plain.skipped, plain.dropped)
    assert outline(found.usable).fingerprint == outline_of(plain.usable).fingerprint


@pytest.mark.parametrize("line", [CAT | {"captions": []}, {"image": 1}])
def test_what_several_processes_cannot_read_one_tells(
    folder: Path, line: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_lines(folder / "data", *[CAT | {"captions": [""]}] * 600, line)
    monkeypatch.setattr(parts, "PARTED", 1)
    monkeypatch.setattr(parts, "cores", lambda: 2)
    with pytest.raises(DataError) as plain:
        without_index(DataSource(str(file)))
    with pytest.raises(DataError) as error:
        read(file)
    assert str(error.value) == str(plain.value)


SCRIPT = """
from vlm.data import index, parts
from vlm.data.read import read_sources
from vlm.data.source import DataSource

index.LARGE = parts.PARTED = 1
parts.cores = lambda: 2
parts.RowWriter = None  # In this process: others must be those that read.
print(len(read_sources([DataSource("data")])[0].usable))
"""


def test_a_script_that_reads_is_not_run_again(folder: Path) -> None:
    save_lines(folder / "data", *[CAT] * 300)
    path = os.environ | {"PYTHONPATH": str(Path(parts.__file__).parents[2])}
    command = [sys.executable, "-"]
    done = subprocess.run(
        command, input=SCRIPT, cwd=folder, env=path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("300\n", f"data {MADE}\n")


def test_a_process_ends_with_the_one_that_started_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DataSource(str(save_lines(folder / "data", *[CAT] * 600)))
    # Another one is the parent of a process whose own is gone.
    monkeypatch.setattr(os, "getppid", iter([7, 1]).__next__)
    with pytest.raises(SystemExit):
        parts.write_part(folder / "part", Samples(source, "captions"), read_into, 0, 1, 7)


def test_samples_of_an_index_are_a_sequence(folder: Path) -> None:
    usable = read(SOURCES["conversations"](folder)).usable
    plain = without_index(DataSource(str(folder / "data"))).usable
    assert len(usable) == 4
    assert usable[-1] == usable[np.int64(3)] == plain[3]
    assert usable[1:] == plain[1:]
    assert list(pickle.loads(pickle.dumps(usable))) == plain
    for at in (4, -5):
        with pytest.raises(IndexError):
            usable[at]


def test_the_outline_by_hand(folder: Path) -> None:
    known = outline(read(SOURCES["conversations"](folder)).usable)
    assert known.lengths.tolist() == [4 + 6 + 4 + 3, 9 + 4 + 7, 2 + 1 + 4, 4 + 8]
    assert known.counts.tolist() == [1, 0, 2, 1]
    first, again, other, url = known.photos.tolist()
    assert first == again
    assert len({first, other, url}) == 3


def test_an_index_is_made_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = DataSource(str(SOURCES["captions"](folder)))
    told = f"{source.path} {MADE}\n"
    for again, expected in [
        (source, told),
        (source, ""),
        (replace(source, weight=2.0, augment=True), ""),
        (replace(source, limit=1), told),
        (replace(source, questions=["Who?"]), told),
        (replace(source, outside=True), told),
        (replace(source, images=folder), told),
        (source, ""),
    ]:
        assert read_source(again).source == again
        assert capsys.readouterr().err == expected


def read_when(both: Any, path: str, seen: Any) -> None:
    both.wait()
    seen.put(len(read(path).usable))


def test_of_two_processes_one_makes_it(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(SOURCES["captions"](folder))
    context = multiprocessing.get_context("fork")
    both, seen = context.Barrier(2), context.Queue()
    processes = [context.Process(target=read_when, args=(both, path, seen)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [seen.get(timeout=60) for _ in processes] == [2, 2]
    for process in processes:
        process.join()
    assert capfd.readouterr().err.count(MADE) == 1


@pytest.mark.parametrize("name", [index.SAMPLES, index.SOURCE, index.COMPLETE])
@pytest.mark.parametrize("damage", ["cut off", "another byte", "empty", "gone"])
def test_a_damaged_index_is_made_anew(
    folder: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read(SOURCES["conversations"](folder))
    (file,) = (folder.parent / "cache" / "sources").glob(f"*/{name}")
    whole = bytearray(file.read_bytes())
    file.unlink()
    if damage != "gone":
        middle = len(whole) // 2
        whole[middle] ^= 1
        file.write_bytes({"cut off": whole[:middle], "empty": b""}.get(damage, whole))
    capsys.readouterr()
    after = read(folder / "data")
    assert capsys.readouterr().err == f"{folder / 'data'} {MADE}\n"
    assert list(after.usable) == list(before.usable)
    assert (after.skipped, after.dropped) == (before.skipped, before.dropped)


def test_an_index_of_another_version_is_made_anew(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SOURCES["captions"](folder)
    read(file)
    monkeypatch.setattr(index, "VERSION", 0)
    capsys.readouterr()
    read(file)
    assert MADE in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["captions", "sidecar", "shards", "dataset", "imagefolder"])
def test_a_source_that_changed_is_read_again(
    folder: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = SOURCES[kind](folder)
    read(path)
    file = max((f for f in path.rglob("*") if f.suffix != ".png"), default=path)
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    capsys.readouterr()
    read(path)
    assert MADE in capsys.readouterr().err


def identities(file: Path, *letters: str) -> int:
    """How many a file has with these letters at its start, in its middle and at its end."""
    seen, last = set(), 0
    for start, middle, end in letters:
        file.write_bytes((start + " " * (1 << 19) + middle + " " * (1 << 19) + end).encode())
        os.utime(file, ns=(0, 0))
        # The clock of a file system ticks some hundred times a second.
        while os.lstat(file).st_ctime_ns == last:
            os.utime(file, ns=(0, 0))
        last = os.lstat(file).st_ctime_ns
        both = index.identify(DataSource(str(file)))
        assert both == index.identify(DataSource(str(file)))
        seen.add(both)
    return len(seen)


def test_a_file_whose_time_is_set_back_is_another(folder: Path) -> None:
    assert identities(folder / "data", "abc", "adc") == 2


def test_the_ends_of_a_large_file_identify_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat
    # A file system without times: the first ten fields have them in seconds, and none is read.
    monkeypatch.setattr(os, "stat", lambda *of, **how: os.stat_result(stat(*of, **how)[:10]))
    assert identities(folder / "data", "abc", "dbc", "abd", "adc") == 3


def test_answers_that_changed_are_read_again(folder: Path) -> None:
    source = DataSource(str(vqa(folder)), annotations=folder / "annotations")
    before = [sample.answers for sample in read_source(source).usable]
    changed = json.loads(json.dumps(ANNOTATIONS).replace('"he"', '"she"'))
    save_json(folder / "annotations", changed)
    after = [sample.answers for sample in read_source(source).usable]
    assert before != after == [sample.answers for sample in without_index(source).usable]


def test_photos_that_come_later_are_found(folder: Path) -> None:
    lines = [{"image": name, "captions": ["a cat"]} for name in ("a.png", "d/e.png", "z.png")]
    file = save_lines(folder / "data", *lines)
    assert len(read(file).skipped) == 2
    save_photos(folder, "images/d/e.png")
    assert len(read(file).skipped) == 1
    save_photos(folder, "z.png")
    assert len(read(file).usable) == 3


def test_a_photo_that_is_gone_is_skipped_when_it_is_needed(folder: Path) -> None:
    file = save_lines(folder / "data", CAT, CAT | {"image": "c.png"})
    read(file)
    (folder / "images/a.png").unlink()
    first, second = read(file).usable
    with pytest.raises(SkipSample, match="broken image"):
        read_photo(first.photos[0])
    read_photo(second.photos[0])


def test_a_disk_that_refuses(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SOURCES["captions"](folder)
    (folder / "full").touch()
    monkeypatch.setenv("VLM_CACHE", str(folder / "full"))
    found = read(file)
    assert isinstance(found.usable, list)
    assert found.usable == without_index(DataSource(str(file))).usable
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"{file} is read into memory, without an index: cannot make ")
    assert told.endswith(": Not a directory; VLM_CACHE names another place for it")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('[{"image": "a.png", "captions": ["a cat"]},', "not JSON: "),
        ('{"image": "a.png", "captions": ["a cat"]}\n{"image": 1}', "line 2: captions"),
        ('{"image": "none.png", "captions": ["a cat"]}', "no sample can be used: 1 missing image"),
    ],
)
def test_errors_are_the_same_and_leave_nothing(folder: Path, content: str, told: str) -> None:
    source = DataSource(str(folder / "data"))
    (folder / "data").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=told) as error:
        read_source(source)
    with pytest.raises(DataError) as plain:
        without_index(source)
    assert str(error.value) == str(plain.value)
    assert [path.suffix for path in (folder.parent / "cache/sources").iterdir()] == [".lock"]


def test_an_index_that_is_replaced_while_it_is_used(folder: Path) -> None:
    found = read(SOURCES["captions"](folder))
    pickled = pickle.dumps(found.usable)
    save_lines(folder / "data", CAT)
    read(folder / "data")
    assert len(found.usable) == 2
    with pytest.raises(DataError, match=r"data has changed while it was in use: start again$"):
        pickle.loads(pickled)


def test_a_run_is_the_same_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_runs.run_config(tmp_path)
    config.validation = [replace(config.data[0], split="val")]
    train(config)
    monkeypatch.setattr(index, "LARGE", 1)
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    other = tiny_runs.elsewhere(config)
    train(other)
    assert len(list((tmp_path / "cache/sources").glob("*.lock"))) == 2
    assert tiny_runs.same(tiny_runs.weights(config), tiny_runs.weights(other))
    assert tiny_runs.metrics(config) == tiny_runs.metrics(other)
    runs = [json.loads((each.output / "run.json").read_text())["runs"] for each in (config, other)]
    assert runs[0][0]["data"] == runs[1][0]["data"]

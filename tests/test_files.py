"""Files and folders written whole or not at all, and files of rows that are appended to."""

import gzip
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from vlm import files
from vlm.errors import DataError, WeightsError
from vlm.files import (
    append_rows,
    json_lines,
    json_list,
    make_once,
    read_json,
    read_rows,
    replace_folder,
    write_file,
    write_rows,
)

texts = st.text(st.characters(), max_size=6)
rows = st.lists(st.dictionaries(texts, texts | st.integers() | st.none(), max_size=3), max_size=4)


@given(first=rows, torn=rows.map(json.dumps), second=rows, durable=st.booleans())
def test_rows_are_appended_behind_the_last_whole_line(
    tmp_path_factory: pytest.TempPathFactory, first: list, torn: str, second: list, durable: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "rows"
    write_rows(file, first)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(torn)
    assert [row for _, row in read_rows(file)] == first
    append_rows(file, second, durable)
    assert read_rows(file) == list(enumerate(first + second, start=1))
    assert list(json_lines(file)) == read_rows(file)


def test_rows_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none") == []
    (tmp_path / "file").touch()
    assert read_rows(tmp_path / "file" / "none") == read_rows(tmp_path / "file") == []
    append_rows(tmp_path / "none", [{"a": "\ud800"}])
    assert (tmp_path / "none").read_bytes() == b'{"a": "\\ud800"}\n'
    with pytest.raises(DataError, match=r"^cannot write .*: Not a directory$"):
        append_rows(tmp_path / "file" / "none", [])


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('{}\n[1]\n{"to')
    with pytest.raises(DataError, match=r"rows, line 2: a JSON object is needed$"):
        read_rows(tmp_path / "rows")
    (tmp_path / "rows").write_text("{}\n{\n")
    with pytest.raises(DataError, match="rows, line 2: not JSON: "):
        read_rows(tmp_path / "rows")


@pytest.mark.parametrize("read", [read_json, read_rows, lambda file: list(json_lines(file))])
def test_what_cannot_be_read_is_one_line(tmp_path: Path, read) -> None:
    with pytest.raises(DataError, match=r"^cannot read .*: Is a directory$"):
        read(tmp_path)
    for content, told in ((b"\xff\n", "not UTF-8 text$"), (b"[" * 100_000 + b"\n", "not JSON: ")):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(DataError, match=f"file(, line 1)?: {told}"):
            read(tmp_path / "file")


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "rows.jsonl"
    write_rows(file, [{"text": "one\ntwo \ud800 é"}])
    before = file.read_bytes()
    assert read_json(file) == {"text": "one\ntwo \ud800 é"}

    def crash() -> Iterator[dict[str, str]]:
        yield {"text": "half"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(file, crash())
    assert file.read_bytes() == before
    with pytest.raises(DataError, match=r"^cannot write .*: Is a directory$"):
        write_file(tmp_path / "new", "text")
    with pytest.raises(DataError, match=r"^cannot write .*rows\.jsonl: File exists$"):
        write_file(file / "rows.jsonl", b"bytes")
    assert list(tmp_path.rglob("*")) == [file.parent, file]


@pytest.mark.parametrize("made", ["replaced", "once"])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, made: str) -> None:
    def write(into: Path) -> None:
        (into / "inner").mkdir()
        # safetensors itself writes a file that only its owner may read.
        save_file({"weight": torch.zeros(1)}, into / "inner" / "model.safetensors")

    umask = os.umask(0o027)
    try:
        if made == "once":
            make_once(tmp_path / made, write)
        else:
            replace_folder(tmp_path / made, write, holds="inner")
    finally:
        os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / made).rglob("*")}
    assert modes == {"inner": 0o750, "model.safetensors": 0o640}


# JSON lists, value by value

values = st.recursive(
    texts | st.integers() | st.none() | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(listed=st.lists(values), indent=st.sampled_from([None, 2]), piece=st.integers(1, 40))
def test_a_list_is_read_value_by_value(
    tmp_path_factory: pytest.TempPathFactory, listed: list, indent: int | None, piece: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "list"
    text = f"\ufeff {json.dumps(listed, indent=indent)} \n"
    for content in (text.encode(), gzip.compress(text.encode())):
        file.write_bytes(content)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(files, "PIECE", piece)
            assert list(json_list(file)) == listed


@given(text=st.text('[]{},:1"\\ \ne', max_size=12), piece=st.integers(1, 20))
@example(text='[1, {"a": 2}, "', piece=3)
@example(text="[1] 2", piece=1)
@example(text="[1,]", piece=2)
@example(text="[1 2]", piece=9)
def test_a_list_is_refused_as_the_whole_is(
    tmp_path_factory: pytest.TempPathFactory, text: str, piece: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "list"
    file.write_text(f"[{text}")
    outcomes = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "PIECE", piece)
        for read in (read_json, lambda file: list(json_list(file))):
            try:
                outcomes.append(read(file))
            except DataError as error:
                outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_a_list_that_is_no_text_or_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "list"
    file.write_bytes(b'[1, "\xff"]')
    with pytest.raises(DataError, match=r"list: not UTF-8 text$"):
        list(json_list(file))
    monkeypatch.setattr(files, "PIECE", 4)
    monkeypatch.setattr(files, "LARGEST", 10)
    file.write_bytes(gzip.compress(b"[1, 2, 3, 4, 5]"))
    with pytest.raises(DataError, match=r"list is larger than 0 GiB$"):
        list(json_list(file))
    file.write_bytes(b"[1, 2, 3, 4, 5]")
    with pytest.raises(DataError, match=r"list is larger than 0 GiB$"):
        next(json_list(file))


# Folders that are made once


def build_and_die(into: Path) -> None:
    (into / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)


def build_whole(into: Path) -> None:
    (into / "inner").mkdir()
    (into / "inner" / "whole").write_text("whole")


def build_slowly(into: Path) -> None:
    with (into.parent / "log").open("a") as log:
        log.write("built\n")
    time.sleep(0.3)
    build_whole(into)


def make_slowly(folder: Path, both: multiprocessing.Barrier, seen: multiprocessing.Queue) -> None:
    both.wait()
    made = make_once(folder, build_slowly)
    seen.put((made / "inner" / "whole").read_text())


def test_a_killed_process_leaves_nothing_that_counts_as_whole(tmp_path):
    folder = tmp_path / "cache" / "made"
    process = multiprocessing.get_context("fork").Process(
        target=make_once, args=(folder, build_and_die)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not folder.exists()

    assert make_once(folder, build_whole) == folder
    assert [path.name for path in folder.rglob("*")] == ["inner", "whole"]
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["made"]


def test_two_processes_at_once_make_it_once_and_both_get_it(tmp_path):
    context = multiprocessing.get_context("fork")
    both, seen = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=make_slowly, args=(tmp_path / "made", both, seen)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert [seen.get(timeout=30) for _ in processes] == ["whole", "whole"]
    for process in processes:
        process.join()
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    def build_without_folder(into: Path) -> None:
        save_file({"weight": torch.zeros(1)}, into / "gone" / "model.safetensors")

    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"cannot make .*made.*VLM_CACHE"):
        make_once(tmp_path / "file" / "made", build_whole)
    with pytest.raises(WeightsError, match=r"cannot make .*made.*VLM_CACHE"):
        make_once(tmp_path / "made", build_without_folder)


def test_a_folder_that_is_no_good_is_replaced(tmp_path):
    folder = tmp_path / "made"
    make_once(folder, build_whole)
    (folder / "inner" / "whole").write_text("damaged")
    good = lambda made: (made / "inner/whole").read_text() == "whole"  # noqa: E731
    assert make_once(folder, build_whole, good) == folder
    assert good(folder)
    (folder / "stays").touch()
    make_once(folder, build_whole, good)
    assert (folder / "stays").is_file()


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def build_half(into: Path) -> None:
        (into / "half").touch()
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        make_once(tmp_path / "made", build_half)
    assert [path.name for path in tmp_path.iterdir()] == ["made.lock"]

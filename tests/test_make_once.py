"""A folder made once is whole or not there, whoever crashes and however many make it."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlm.errors import WeightsError
from vlm.files import make_once


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


def test_an_error_of_the_build_leaves_nothing_that_counts_as_whole(tmp_path):
    def build_and_fail(into: Path) -> None:
        (into / "half").write_text("half")
        raise WeightsError("half-way")

    with pytest.raises(WeightsError, match="half-way"):
        make_once(tmp_path / "made", build_and_fail)
    assert not (tmp_path / "made").exists()
    make_once(tmp_path / "made", build_whole)
    assert not (tmp_path / "made" / "half").exists()


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

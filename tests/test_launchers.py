"""The commands that start `vlm`, as they are typed, in a folder with a `train.py` and an `eval.py`
of the user's own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from pydantic_core import to_jsonable_python

import vlm
from tests import tiny_runs

BIN = Path(sys.executable).parent
SPAWN = """
import importlib, multiprocessing, runpy
try:
    runpy.run_module("vlm", run_name="__main__", alter_sys=True)
except SystemExit:
    start = multiprocessing.get_context("spawn").Process
    worker = start(target=importlib.import_module, args=("train.config",))
    worker.start()
    worker.join()
    raise SystemExit(worker.exitcode)
"""
"""`python -m vlm`, and then a worker process that is a new one, as on macOS, and not forked."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's folder, with a run to train, and a checkpoint and a question to ask it."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("train.py", "eval.py"):
        (folder / name).write_text(f"raise RuntimeError('{name} of the user was imported')\n")
    (folder / "tests").mkdir()
    (folder / "tests" / "__init__.py").touch()
    config = tiny_runs.run_config(folder, epochs=1, cache="off")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(to_jsonable_python(config)))
    vlm.build(config.model).save(folder / "checkpoint")
    question = {"image": "data/0.png", "question": "What?", "answers": ["cat"]}
    (folder / "own.jsonl").write_text(json.dumps(question) + "\n")
    return folder


def run(folder: Path, *command: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """What a command leaves that ends with this status."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done


def test_a_path_without_the_current_folder_is_left_as_it_is(folder: Path) -> None:
    assert "usage: vlm COMMAND" in run(folder, "python", "-P", "-m", "vlm").stdout


def test_a_new_worker_process_finds_our_train(folder: Path) -> None:
    assert run(folder, "python", "-c", SPAWN, "--version").stdout.startswith("vlm ")


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two processes cannot share one GPU")
def test_torchrun_trains_one_run_in_two_processes(folder: Path) -> None:
    run(folder, "torchrun", "--nproc_per_node", "2", "-m", "vlm", "train", "tiny.yaml")
    about = json.loads((folder / "run" / "run.json").read_text())
    assert about["runs"][0]["hardware"]["processes"] == 2
    rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]


@pytest.mark.parametrize(("asked", "expected"), [("auto", "fp16"), ("fp32", "fp32")])
def test_accelerate_decides_what_is_computed_in_where_the_config_does_not(
    folder: Path, tmp_path: Path, asked: str, expected: str
) -> None:
    launch = ["accelerate", "launch", "--num_processes", "1", "--mixed_precision", "fp16"]
    words = ["tiny.yaml", "--precision", asked, "--output", str(tmp_path / "run")]
    if expected == "fp16" and not torch.cuda.is_available():
        told = run(folder, *launch, "-m", "vlm", "train", *words, status=1).stderr
        assert "precision=fp16 needs a GPU: choose bf16 or fp32" in told
        return
    run(folder, *launch, "-m", "vlm", "train", *words)
    (about,) = json.loads((tmp_path / "run" / "run.json").read_text())["runs"]
    assert about["config"]["precision"] == expected


def test_accelerate_evaluates(folder: Path) -> None:
    words = ["-m", "vlm", "eval", "own.jsonl", "--model", "checkpoint"]
    run(folder, "accelerate", "launch", "--num_processes", "1", *words)
    (report,) = (folder / "runs" / "eval").glob("*/*/report.json")
    assert json.loads(report.read_text())["questions"] == 1

"""`vlm eval` in processes of its own: killed and started again, and two that share the work."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vlm
from tests import tiny, tiny_folders

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PHOTOS, ASKED = (
    12,
    ["what ?", "what is in the picture ?", "is it a cat ?", "who ?", "where is it ?"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, and questions in DAQUAR's layout."""
    folder = tmp_path_factory.mktemp("eval")
    vlm.build(tiny_folders.model_config(folder / "parts")).save(folder / "model")
    images = folder / "daquar" / "images"
    images.mkdir(parents=True)
    for number in range(PHOTOS):
        tiny.photo(number).save(images / f"{number}.png")
    lines = [
        {"id": f"{n}-{place}", "image": f"images/{n}.png", "question": text, "answers": ["cat"]}
        for place, text in enumerate(ASKED)
        for n in range(PHOTOS)
    ]
    text = "".join(json.dumps({**line, "split": "test"}) + "\n" for line in lines)
    (folder / "daquar" / "questions.jsonl").write_text(text)
    return folder


def command(folder: Path, name: str, *options: str, processes: int = 1) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    where = ["--data", str(folder), "--output", str(folder / name)]
    program = [*(launch if processes > 1 else []), "-m", "vlm", "eval", "daquar", *where]
    return [sys.executable, *program, "--model", str(folder / "model"), *options]


def run(words: list[str]) -> None:
    done = subprocess.run(
        words, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def answers(folder: Path, name: str) -> Path:
    return folder / name / "daquar" / "model" / "predictions.jsonl"


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    """All answers, asked one at a time by one process that nobody kills."""
    run(command(folder, "whole", "--batch_size", "1"))
    return answers(folder, "whole").read_bytes()


def test_a_killed_run_is_resumed_and_ends_with_the_same_file(folder: Path, whole: bytes) -> None:
    words = command(folder, "killed", "--batch_size", "1")
    for count in (3, 20):
        process = subprocess.Popen(
            words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        file = answers(folder, "killed")
        deadline = time.monotonic() + 120
        while not file.exists() or file.read_bytes().count(b"\n") < count:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert count <= file.read_bytes().count(b"\n") < PHOTOS * len(ASKED)
    run(words)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("size", ["4", "7"])
def test_two_processes_write_what_one_does(folder: Path, whole: bytes, size: str) -> None:
    run(command(folder, f"two{size}", "--batch_size", size, processes=2))
    assert answers(folder, f"two{size}").read_bytes() == whole
    report = json.loads((folder / f"two{size}" / "daquar" / "model" / "report.json").read_text())
    assert report["questions"] == PHOTOS * len(ASKED)

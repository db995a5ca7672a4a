"""States of a run: whole or not there, and random numbers that are put back."""

import io
import random
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

from train.resume import (
    newest_state,
    read_state,
    remove_states,
    restore_random_state,
    states,
    write_state,
)
from vlm.errors import CheckpointError


def trained(step: int) -> dict[str, Tensor]:
    return {"projector.weight": torch.full((2, 3), float(step))}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """States of the steps 1 and 2."""
    for step in (1, 2):
        save(tmp_path / "state", step)
    return tmp_path / "state"


def save(root: Path, step: int, keep: int = 9) -> None:
    training = {"at": {"step": step}, "average": None, "best": float("inf")}
    write_state(root, step, trained(step), training, Accelerator(cpu=True), keep)


def newest(root: Path) -> tuple[str | None, str]:
    """Name of the newest whole state, and what was said of others."""
    console = Console(file=io.StringIO(), width=500)
    found = newest_state(root, console)
    return found and found.name, console.file.getvalue().strip()


def test_what_was_written_is_read(root: Path) -> None:
    assert newest(root) == ("step-00000002", "")
    tensors, training = read_state(root / "step-00000002")
    assert torch.equal(tensors["projector.weight"], trained(2)["projector.weight"])
    assert training == {"at": {"step": 2}, "average": None, "best": float("inf")}


def test_a_folder_without_states(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") == (None, "")


@pytest.mark.parametrize("name", ["trained.safetensors", "training.pt", "random-0.pt"])
def test_one_flipped_bit_is_noticed_in_every_file(root: Path, name: str) -> None:
    file = root / "step-00000002" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    found, said = newest(root)
    assert found == "step-00000001"
    assert said == (
        f"warning: {file.parent} is damaged ({name} has changed); trying the state before it"
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("training.pt", None, "(training.pt: No such file or directory)"),
        ("complete.json", None, "(complete.json: No such file or directory)"),
        ("complete.json", '{"training', "(complete.json: "),
        ("complete.json", "[1]", "(complete.json: "),
        ("complete.json", "3", "(complete.json: "),
    ],
)
def test_what_is_no_state_is_passed_over(
    root: Path, name: str, text: str | None, said: str
) -> None:
    file = root / "step-00000002" / name
    file.unlink()
    if text is not None:
        file.write_text(text, encoding="utf-8")
    found, told = newest(root)
    assert found == "step-00000001"
    assert said in told


def test_a_state_outlives_later_ones_that_are_damaged(root: Path) -> None:
    for step in (7, 8):
        save(root, step)
        (root / f"step-{step:08d}" / "training.pt").unlink()
    assert newest(root)[0] == "step-00000002"
    save(root, 3, keep=2)
    assert [folder.name for folder in states(root)] == ["step-00000002", "step-00000003"]


def test_states_are_removed_and_nothing_else(root: Path) -> None:
    (root / ".step-00000003.partial").mkdir()
    (root / "thesis.tex").write_text("")
    remove_states(root)
    assert [path.name for path in root.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["training.pt", "complete.json"])
def test_a_step_that_is_saved_again_is_replaced(root: Path, name: str) -> None:
    (root / "step-00000002" / name).unlink()
    save(root, 2)
    assert newest(root) == ("step-00000002", "")


def test_a_crash_leaves_what_was_there(root: Path) -> None:
    partial = root / ".step-00000003.partial"
    partial.mkdir()
    (partial / "training.pt").write_bytes(b"half")
    assert newest(root) == ("step-00000002", "")
    save(root, 3)
    assert newest(root) == ("step-00000003", "")
    assert not partial.exists()


def test_a_folder_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"^cannot write .*step-00000001: .*Not a directory"):
        save(tmp_path / "file" / "state", 1)


def test_random_numbers_are_put_back(root: Path) -> None:
    random.seed(5)
    torch.manual_seed(5)
    save(root, 7)
    drawn = random.random(), random.gauss(), torch.rand(3).tolist()
    restore_random_state(root / "step-00000007", 0)
    assert (random.random(), random.gauss(), torch.rand(3).tolist()) == drawn


def test_nothing_in_a_state_is_executed(root: Path) -> None:
    # As torch.save writes whatever it is given, but weights_only reads tensors and plain values.
    torch.save({"at": Path("x")}, root / "step-00000002" / "training.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        read_state(root / "step-00000002")

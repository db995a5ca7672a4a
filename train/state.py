"""The state of a run: everything that a killed run needs to go on bit for bit.

    state/step-00001200/
        trained.safetensors     the tensors that train, in float32
        training.pt             optimizer, running averages, place in the data, best validation
        random-0.pt, ...        random state of each process
        complete.json           the SHA-256 of every file above

A folder is written aside under another name and moved into place when it is on the disk whole.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlm.errors import CheckpointError
from vlm.files import sync

COMPLETE = "complete.json"


def save_state(
    root: Path,
    step: int,
    trained: dict[str, Tensor],
    training: dict[str, Any],
    accelerator: Accelerator,
    keep: int,
) -> None:
    """Writes the state of a run; of older ones, the newest `keep - 1` stay. All processes call it.

    Args:
        root: folder of the run's states.
        step: steps so far.
        trained: the tensors that train, by name.
        training: whatever else; `torch.load(weights_only=True)` must be able to read it.
        accelerator: of the run.
        keep: states that are left.

    Raises:
        CheckpointError: the disk refuses; the states before are whole.
    """
    folder = root / f"step-{step:08d}"
    partial = root / f".{folder.name}.partial"
    # Nothing is raised where the other processes would wait for this one.
    refused: list[str] = []
    with refusals(refused):
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    with refusals(refused):
        write(random_state(), partial / f"random-{accelerator.process_index}.pt")
        if accelerator.is_main_process:
            save_file(trained, partial / "trained.safetensors")
            write(training, partial / "training.pt")
    failed = torch.tensor(float(bool(refused)), device=accelerator.device)
    failed = float(accelerator.reduce(failed, "sum"))
    if accelerator.is_main_process:
        with refusals(refused):
            if not failed:
                complete(partial, folder)
                prune(root, folder, keep)
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    if refused or failed:
        reason = refused[0] if refused else "another process failed"
        raise CheckpointError(f"cannot write {folder}: {reason}")


@contextmanager
def refusals(told: list[str]) -> Iterator[None]:
    """Within, an error of the disk ends the block and is added to what was told."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save raises one of its own while it handles that of the disk, which says more.
        refused = error.__context__ if isinstance(error.__context__, OSError) else error
        told.append(" ".join(str(refused).split()) or type(refused).__name__)


def write(value: dict[str, Any], file: Path) -> None:
    """`torch.save` through a file of Python's, or the error of the disk would be lost."""
    with file.open("wb") as opened:
        torch.save(value, opened)


def prune(root: Path, newest: Path, keep: int) -> None:
    """Removes all states but the newest, which was just written, and `keep - 1` before it. Later
    ones are of a run that went on from before them, because they were damaged."""
    before = [folder for folder in states(root) if folder < newest]
    later = [folder for folder in states(root) if folder > newest]
    for folder in [*before[: max(0, len(before) - keep + 1)], *later]:
        shutil.rmtree(folder)


def remove_states(root: Path) -> None:
    """Removes all states, half-written ones too, and nothing else that lies there."""
    for folder in [*states(root), *root.glob(".step-*.partial")]:
        shutil.rmtree(folder, ignore_errors=True)


def complete(partial: Path, folder: Path) -> None:
    """Moves a whole folder into place, once it is on the disk."""
    digests = {path.name: digest(path) for path in sorted(partial.iterdir())}
    (partial / COMPLETE).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    for path in [*partial.iterdir(), partial]:
        sync(path)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    sync(folder.parent)


def states(root: Path) -> list[Path]:
    """The states in a folder, oldest first."""
    return sorted(root.glob("step-*"))


def newest_state(root: Path, console: Console) -> Path | None:
    """The newest state whose files are what was written; None if there is none at all. Says which
    newer ones are damaged.

    Raises:
        CheckpointError: all of them are.
    """
    for folder in reversed(states(root)):
        damage = damage_of(folder)
        if damage is None:
            return folder
        console.print(f"warning: {folder} is damaged ({damage}); trying the state before it")
    if states(root):
        raise CheckpointError(
            f"every state in {root} is damaged: --force instead of --resume begins anew"
        )
    return None


def damage_of(folder: Path) -> str | None:
    """What is wrong with the files of a state; None if nothing is."""
    try:
        digests = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        changed = [name for name in digests if digest(folder / name) != digests[name]]
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except (ValueError, TypeError) as error:
        return f"{COMPLETE}: {error}"
    return f"{changed[0]} has changed" if changed else None


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_state` wrote: the tensors that train, and the rest, on the CPU."""
    trained = load_file(folder / "trained.safetensors")
    return trained, torch.load(folder / "training.pt", map_location="cpu", weights_only=True)


def random_state() -> dict[str, Any]:
    """Of Python's and torch's generators in this process."""
    version, numbers, gauss = random.getstate()
    state = {"python": [version, list(numbers), gauss], "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(folder: Path, rank: int) -> None:
    """Puts back what `random_state` gave in this process.

    Raises:
        CheckpointError: the run had fewer processes.
    """
    file = folder / f"random-{rank}.pt"
    if not file.is_file():
        raise CheckpointError(f"{folder} was written by fewer processes: it has no {file.name}")
    state = torch.load(file, weights_only=True)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

"""Resuming a run: all that changes while it trains, written now and then and put back bit for bit.

    state/step-00001200/
        trained.safetensors     the tensors that train, in float32
        training.pt             optimizer, average of the weights, place in the data
        random-0.pt, ...        random state of each process
        complete.json           the SHA-256 of every file above

A folder is written aside and moved into place when it is on the disk whole.
"""

import json
import math
import random
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import broadcast_object_list, gather_object
from pydantic_core import to_jsonable_python
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from train.config import TrainConfig
from train.ema import WeightAverage
from train.run_json import describe, differences, starts
from vlm.errors import CheckpointError, ConfigError
from vlm.files import disk, replace_folder, sha256
from vlm.model import VisionLanguageModel

COMPLETE = "complete.json"

FREE_TO_DIFFER = {
    *("resume", "force", "output", "workers", "trackers", "save_every", "keep", "answer_every"),
    *("cache_folder", "cache_gb", "max_skipped", "allowed_unusable"),
}
"""Settings that a resumed run may have otherwise: they do not change its weights."""

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""How tensors are collected, wherever their parts are."""


@dataclass
class Position:
    """Where a run is. A `step` is a change of the weights, or one that was skipped; `closed` is the
    last one after which an epoch ended, or all did, `best` the lowest validation loss."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    closed: int = 0
    skipped_steps: int = 0
    best: float = math.inf


@dataclass
class TrainingState:
    """All that changes while a run trains, random numbers aside; `network` is the model as the
    accelerator prepared it, `data` the fingerprint of the samples."""

    accelerator: Accelerator
    model: VisionLanguageModel
    network: nn.Module
    optimizer: AcceleratedOptimizer
    average: WeightAverage
    data: str
    at: Position = field(default_factory=Position)

    def trained_tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, whole, on the CPU. All processes call it."""
        tensors = get_model_state_dict(self.network, options=WHOLE)
        return {name: tensors[name] for name in sorted(self.model.trained) if name in tensors}

    def save(self, config: TrainConfig) -> None:
        """Writes all that is needed to resume from here. All processes call it."""
        training: dict[str, Any] = {
            "at": asdict(self.at),
            # Not accelerate's wrapper, whose step asks a float16 scaler that has not begun.
            "optimizer": get_optimizer_state_dict(
                self.network, self.optimizer.optimizer, options=WHOLE
            ),
            "average": self.average.tensors,
            "data": self.data,
        }
        if self.accelerator.scaler is not None:
            training["scaler"] = self.accelerator.scaler.state_dict()
        root, trained = config.output / "state", self.trained_tensors()
        write_state(root, self.at.step, trained, training, self.accelerator, config.keep)

    def load(self, folder: Path) -> None:
        """Puts back what `save` wrote, but for what the config says: learning rates and such, an
        average that the run did not have before."""
        trained, training = read_state(folder)
        self._check_trained(folder, trained)
        options = StateDictOptions(full_state_dict=True, strict=False)
        self._load_optimizer(training["optimizer"], options)
        set_model_state_dict(self.network, trained, options=options)
        self.average.load(training["average"])
        if self.accelerator.scaler is not None and "scaler" in training:
            self.accelerator.scaler.load_state_dict(training["scaler"])
        self.at = Position(**training["at"])
        if training["data"] != self.data:
            # Losses of other samples do not compare.
            self.at.best = math.inf
        restore_random_state(folder, self.accelerator.process_index)

    def _check_trained(self, folder: Path, trained: dict[str, Tensor]) -> None:
        there = {name: tensor.shape for name, tensor in trained.items()}
        own = {
            name: parameter.shape
            for name, parameter in self.model.named_parameters()
            if name in self.model.trained
        }
        others = [n for n in sorted(there | own) if there.get(n) != own.get(n)]
        if others:
            raise CheckpointError(
                f"{folder} is of a run that trained something else ({others[0]} and "
                f"{len(others) - 1} more differ): train the same, or start from its checkpoint"
            )

    def _load_optimizer(self, state: dict[str, Any], options: StateDictOptions) -> None:
        # The moments; settings stay those of the config.
        optimizer = self.optimizer.optimizer
        settings = [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        set_optimizer_state_dict(self.network, optimizer, state, options=options)
        for group, own in zip(optimizer.param_groups, settings, strict=True):
            group.update(own)


def begin(
    state: TrainingState,
    config: TrainConfig,
    resumed: Path | None,
    total_steps: int,
    console: Console,
) -> None:
    """Brings a run to where its state is, if it is resumed, else clears away those of another; and
    writes what the run folder says of this start."""
    if resumed:
        state.load(resumed)
        console.print(f"resuming from step {state.at.step:,} of {total_steps:,} ({resumed})")
    if state.accelerator.is_main_process:
        if not resumed:
            remove_states(config.output / "state")
        processes = state.accelerator.num_processes
        describe(config.output, config, state.data, processes, resumed=bool(resumed))


def state_to_resume(
    config: TrainConfig, data: str, accelerator: Accelerator, console: Console
) -> Path | None:
    """The newest whole state of the run in the output folder, if that is to be resumed; a
    ConfigError if it had another config or other data. A cache that the run decided on is then
    decided in `config`."""
    root = config.output / "state"
    if not config.resume:
        there = states(root) or (config.output / "checkpoint").exists()
        if there and not config.force:
            raise ConfigError(
                f"{config.output} holds a run already: --resume resumes it, --force begins anew, "
                "or choose another output"
            )
        # Or the main process might have made one before another one looked.
        accelerator.wait_for_everyone()
        return None
    found = newest_state(root, console)
    before = starts(config.output)[-1:] if found else []
    for entry in before:
        if config.cache == "auto":
            config.cache = entry["config"]["cache"]
        then = {name: entry[name] for name in ("config", "data")}
        then["processes"] = entry["hardware"]["processes"]
        now = {"config": to_jsonable_python(config), "data": data}
        now["processes"] = accelerator.num_processes
        changed = differences(then, now, {f"config.{name}" for name in FREE_TO_DIFFER})
        if changed and not config.force:
            raise ConfigError(
                f"{config.output} cannot be resumed, its settings have changed: "
                f"{'; '.join(changed)}; --resume --force resumes it all the same"
            )
    return found


def write_state(
    root: Path,
    step: int,
    trained: dict[str, Tensor],
    training: dict[str, Any],
    accelerator: Accelerator,
    keep: int,
) -> None:
    """Writes the state of a run; of older ones, the newest `keep - 1` stay. All processes call it,
    and raise a CheckpointError where the disk of one refuses; the states before stay whole."""
    folder = root / f"step-{step:08d}"
    random_states = gather_object([random_state()])

    def write(partial: Path) -> None:
        save_file(trained, partial / "trained.safetensors")
        save_values(training, partial / "training.pt")
        for rank, numbers in enumerate(random_states):
            save_values(numbers, partial / f"random-{rank}.pt")
        digests = {path.name: sha256(path) for path in sorted(partial.iterdir())}
        (partial / COMPLETE).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")

    refused: list[str | None] = [None]
    if accelerator.is_main_process:
        try:
            with disk(f"cannot write {folder}", CheckpointError):
                if not (folder / COMPLETE).exists():
                    shutil.rmtree(folder, ignore_errors=True)
                replace_folder(folder, write, holds=COMPLETE)
                prune(root, folder, keep)
        except CheckpointError as error:
            # Raised below: the other processes would wait for this one.
            refused = [str(error)]
    if reason := broadcast_object_list(refused)[0]:
        raise CheckpointError(reason)


def save_values(values: dict[str, Any], file: Path) -> None:
    """`torch.save`, with the error of the disk where there is one."""
    try:
        with file.open("wb") as opened:
            torch.save(values, opened)
    except RuntimeError as error:
        # One of torch's own, raised while it handles that of the disk, which says more.
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_state` wrote: the tensors that train, and the rest, on the CPU."""
    trained = load_file(folder / "trained.safetensors")
    return trained, torch.load(folder / "training.pt", map_location="cpu", weights_only=True)


def prune(root: Path, newest: Path, keep: int) -> None:
    """Removes all states but the newest, which was just written, and `keep - 1` before it. Later
    ones are of a run that was resumed from before them, because they were damaged."""
    kept = [folder for folder in states(root) if folder <= newest][-keep:]
    for folder in set(states(root)) - set(kept):
        shutil.rmtree(folder)


def remove_states(root: Path) -> None:
    """Removes all states, half-written ones too, and nothing else that lies there."""
    for folder in [*states(root), *root.glob(".step-*")]:
        shutil.rmtree(folder, ignore_errors=True)


def states(root: Path) -> list[Path]:
    """The states in a folder, oldest first."""
    return sorted(root.glob("step-*"))


def newest_state(root: Path, console: Console) -> Path | None:
    """The newest state whose files are what was written; None if there is none at all. Says which
    newer ones are damaged."""
    there = states(root)
    for folder in reversed(there):
        damage = damage_of(folder)
        if damage is None:
            return folder
        console.print(f"warning: {folder} is damaged ({damage}); trying the state before it")
    if not there:
        return None
    raise CheckpointError(
        f"every state in {root} is damaged: --force instead of --resume begins anew"
    )


def damage_of(folder: Path) -> str | None:
    """What is wrong with the files of a state; None if nothing is."""
    try:
        digests = json.loads((folder / COMPLETE).read_bytes())
        changed = [name for name in digests if sha256(folder / name) != digests[name]]
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except (ValueError, TypeError) as error:
        return f"{COMPLETE}: {error}"
    return f"{changed[0]} has changed" if changed else None


def random_state() -> dict[str, Any]:
    """Of Python's and torch's generators in this process."""
    version, numbers, gauss = random.getstate()
    state = {"python": [version, list(numbers), gauss], "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(folder: Path, rank: int) -> None:
    """Puts back what `random_state` gave in this process."""
    file = folder / f"random-{rank}.pt"
    if not file.is_file():
        raise CheckpointError(f"{folder} was written by fewer processes: it has no {file.name}")
    state = torch.load(file, weights_only=True)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])

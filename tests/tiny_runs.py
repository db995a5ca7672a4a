"""Tiny training runs: photos with captions, a config over tiny parts, what a run has written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic_core import to_jsonable_python
from safetensors.torch import load_file

from tests import tiny, tiny_folders
from train import run as train_run
from train.config import TrainConfig
from train.log import RunLog
from vlm.data.source import DataSource

SUBJECTS = ["a cat", "two dogs", "the picture", "an image"]


def write_captions(folder: Path, count: int = 7) -> Path:
    """Photos with one to three captions each, the last two of them of the split `val`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        tiny.photo(number).save(folder / f"{number}.png")
        captions = [f"{SUBJECTS[(number + i) % 4]} on the grass ." for i in range(number % 3 + 1)]
        split = "val" if number >= count - 2 else "train"
        lines.append({"image": f"{number}.png", "captions": captions, "split": split})
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    file = folder / "captions.jsonl"
    file.write_text(text, encoding="utf-8")
    return file


def run_config(folder: Path, **fields: object) -> TrainConfig:
    """Two epochs of four steps of two photos each, over tiny parts.

    Args:
        folder: for data, parts and the run.
        **fields: of the config, where they should be others.
    """
    captions = write_captions(folder / "data")
    config = TrainConfig(
        data=[DataSource(str(captions))],
        model=tiny_folders.model_config(folder / "parts"),
        output=folder / "run",
        cache_folder=folder / "features",
        batch_size=2,
        workers=0,
        epochs=2,
        learning_rate=1e-2,
        precision="fp32",
        save_every=1000,
        trackers=[],
    )
    return replace(config, **fields)


def instruct(config: TrainConfig) -> TrainConfig:
    """Stage 2 with two held-out photos, from pixels, so that a checkpoint's loss is that of the
    run."""
    return replace(
        config,
        stage="instruct",
        data=[replace(config.data[0], split="train")],
        validation=[replace(config.data[0], split="val")],
        cache="off",
        epochs=1,
    )


def elsewhere(config: TrainConfig, name: str = "other", **fields: object) -> TrainConfig:
    """The same run in another folder."""
    return replace(config, output=config.output.with_name(name), **fields)


def rows(config: TrainConfig) -> list[dict]:
    """What a run has written into `metrics.jsonl`."""
    lines = (config.output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def metrics(config: TrainConfig, name: str = "loss") -> list[float]:
    """One column of `metrics.jsonl`."""
    return [row[name] for row in rows(config) if name in row]


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    """The tensors of a run's checkpoint."""
    return load_file(config.output / "checkpoint" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors are the same, bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def compute_in_float16(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    """Has runs compute in float16 on the CPU, where `start` refuses it for its slowness: it scales
    losses and overflows as on a GPU."""
    start = train_run.start

    def scaled(config: TrainConfig) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = start(config)
        accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return accelerator

    monkeypatch.setattr(train_run, "start", scaled)


@contextmanager
def after_each_step(call: Callable[[int], None]) -> Iterator[None]:
    """Within, runs call this with the number of each step that is done."""
    step = RunLog.step

    def called(log: RunLog, **values: Any) -> None:
        step(log, **values)
        call(values["step"])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunLog, "step", called)
        yield


def command(config: TrainConfig, file: Path, processes: int = 1) -> list[str]:
    """`vlm train` with this config, written to a file, as processes of their own: forked ones would
    hang on the locks of the OpenMP threads that earlier tests have started."""
    file.write_text(json.dumps(to_jsonable_python(config)), encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [sys.executable, *(launch if processes > 1 else []), "-m", "vlm", "train", str(file)]


def environment() -> dict[str, str]:
    """For such processes."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(config: TrainConfig, file: Path, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Runs `command` to its end."""
    return subprocess.run(
        command(config, file, processes),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

"""What a run folder says about its run: `config.yaml`, which `vlm train` reads back, and
`run.json`, with an entry for each time that the run was started."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from train.jsonl import replace_file, writing
from vlm.data.sample import Sample
from vlm.errors import DataError

PACKAGES = (
    "vlm",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "bitsandbytes",
    "numpy",
)


def describe(folder: Path, config: Any, data: str, processes: int, resumed: bool) -> None:
    """Writes `config.yaml` and `run.json` into a run folder.

    Args:
        folder: of the run.
        config: a dataclass, with all that was left open decided.
        data: the `fingerprint` of the samples.
        processes: that train.
        resumed: adds an entry to those that are there, instead of beginning anew.

    Raises:
        DataError: a `run.json` that this function did not write.
        VLMError: the folder cannot be written.
    """
    entry = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "working_directory": os.getcwd(),
        "config": resolved(config),
        "data": data,
        "source": source(Path(__file__).resolve().parents[1]),
        "packages": packages(),
        "hardware": hardware() | {"processes": processes},
    }
    before = starts(folder) if resumed else []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"runs": [*before, entry]}, indent=2) + "\n"
    replace_file(folder / "run.json", text.encode())
    # What was said of this start, not of the run: whoever runs the file again means neither.
    again = {k: v for k, v in entry["config"].items() if k not in ("resume", "force")}
    text = yaml.safe_dump(again, sort_keys=False, allow_unicode=True)
    replace_file(folder / "config.yaml", text.encode())


def starts(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run folder's `run.json`, oldest first; none if it has no such file.

    Raises:
        DataError: it cannot be read.
    """
    path = folder / "run.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["runs"]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: remove it to go on without what it says") from error


def resolved(config: Any) -> Any:
    """A config as JSON has it: dataclasses as objects, tuples as lists, paths as strings."""
    if is_dataclass(config):
        return {entry.name: resolved(getattr(config, entry.name)) for entry in fields(config)}
    if isinstance(config, dict):
        return {key: resolved(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [resolved(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def differences(old: dict[str, Any], new: dict[str, Any], free: Collection[str] = ()) -> list[str]:
    """What differs between two resolved configs, a line for each key.

    Args:
        old: as `resolved` gave it.
        new: likewise.
        free: keys that may differ, each with all that is below it; dotted, such as `model.llava`.

    Returns:
        Such as `learning_rate: 0.001 then, 0.002 now`.
    """
    before, now = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {_said(before, key)} then, {_said(now, key)} now"
        for key in [*before, *(key for key in now if key not in before)]
        if before.get(key, ...) != now.get(key, ...)
        and not any(f"{key}.".startswith(f"{name}.") for name in free)
    ]


def fingerprint(sources: Iterable[list[Sample]]) -> str:
    """SHA-256 over the text, the photos' names and the order of all samples, in hexadecimal. Where
    one source ends and the next begins counts too, for it decides how they are mixed."""
    digest = hashlib.sha256()
    for samples in sources:
        digest.update(b"source\n")
        for sample in samples:
            conversations = [
                [[message.role, message.parts] for message in conversation]
                for conversation in sample.conversations
            ]
            names = [photo.name for photo in sample.photos]
            digest.update(json.dumps([names, conversations, sample.questions]).encode() + b"\n")
    return digest.hexdigest()


def source(folder: Path) -> dict[str, Any] | None:
    """Commit of the project's source, and whether it was changed since; None if it is not in a git
    checkout, or there is no git."""
    # An installed copy may lie inside the checkout of something else, whose commit says nothing.
    if _git(folder, "ls-files", "--error-unmatch", "train/run_json.py") is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--", "vlm", "train")
    return {"commit": _git(folder, "rev-parse", "HEAD"), "dirty": changed != ""}


def packages() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide what comes out; None: not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def hardware() -> dict[str, Any]:
    """CPU, cores, and GPUs of this machine; memory in bytes."""
    gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "gpus": [{"name": gpu.name, "memory": gpu.total_memory} for gpu in gpus],
    }


def cpu_name() -> str:
    """Model of the CPU, or its architecture where the system does not say more."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    named = (line.partition(":")[2] for line in text.splitlines() if line.startswith("model name"))
    return next(named, "").strip() or platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers; None if it cannot."""
    command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested objects and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for name, below in inner:
        dotted = f"{key}.{name}" if key else str(name)
        if isinstance(below, dict | list) and below:
            yield from _leaves(below, dotted)
        else:
            yield dotted, below


def _said(leaves: dict[str, Any], key: str) -> str:
    if key not in leaves:
        return "not set"
    text = json.dumps(leaves[key])
    return text if len(text) <= 60 else f"{text[:57]}..."

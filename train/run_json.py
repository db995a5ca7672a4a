"""What a run folder says about its run: `config.yaml`, which `vlm train` reads back, and
`run.json`, with an entry for each time that the run was started."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from pydantic_core import to_jsonable_python

from vlm.data.index import outline
from vlm.data.outline import joined
from vlm.data.sample import Sample
from vlm.errors import DataError
from vlm.files import read_json, write_file

PACKAGES = ["torch", "transformers", "accelerate", "peft", "datasets", "bitsandbytes", "numpy"]


def describe(folder: Path, config: Any, data: str, processes: int, resumed: bool) -> None:
    """Writes `config.yaml` and `run.json` into a run folder; a resumed run adds an entry to those
    that are there. `data` is the `fingerprint` of the samples."""
    entry = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "working_directory": os.getcwd(),
        "config": to_jsonable_python(config),
        "data": data,
        "source": source(Path(__file__).resolve().parents[1]),
        "packages": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("vlm", *PACKAGES)},
        },
        "hardware": hardware() | {"processes": processes},
    }
    before = starts(folder) if resumed else []
    write_file(folder / "run.json", json.dumps({"runs": [*before, entry]}, indent=2) + "\n")
    # What was said of this start, not of the run: whoever runs the file again means neither.
    again = {k: v for k, v in entry["config"].items() if k not in ("resume", "force")}
    text = yaml.safe_dump(again, sort_keys=False, allow_unicode=True)
    write_file(folder / "config.yaml", text)


def starts(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run folder's `run.json`, oldest first; none if it has no such file."""
    file = folder / "run.json"
    if not file.exists():
        return []
    try:
        return read_json(file)["runs"]
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged: remove it to resume without what it says") from error


def differences(old: dict[str, Any], new: dict[str, Any], free: Collection[str] = ()) -> list[str]:
    """What differs between two resolved configs, a line for each key, such as `learning_rate: 0.001
    then, 0.002 now`; `free` are dotted keys that may, each with all that is below it."""
    before, now = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {_said(before, key)} then, {_said(now, key)} now"
        for key in before | now
        if before.get(key, ...) != now.get(key, ...)
        and not any(f"{key}.".startswith(f"{name}.") for name in free)
    ]


def fingerprint(sources: Iterable[Sequence[Sample]]) -> str:
    """SHA-256 over the text, the photos' names and the order of all samples, in hexadecimal. Where
    one source ends and the next begins counts too, for it decides how they are mixed."""
    return joined(list(map(outline, sources))).fingerprint


def source(folder: Path) -> dict[str, Any] | None:
    """Commit of the project's source, and whether it was changed since; None if it is not in a git
    checkout, or there is no git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    try:
        # An installed copy may lie in the checkout of something else, whose commit says nothing.
        git("ls-files", "--error-unmatch", "train/run_json.py")
        changed = git("status", "--porcelain", "--", "vlm", "train")
        return {"commit": git("rev-parse", "HEAD"), "dirty": changed != ""}
    except (OSError, subprocess.SubprocessError):
        return None


def version(package: str) -> str | None:
    """None: it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    named = (line.partition(":")[2] for line in text.splitlines() if line.startswith("model name"))
    return next(named, "").strip() or platform.processor() or platform.machine()


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
    text = json.dumps(leaves[key]) if key in leaves else "not set"
    return text if len(text) <= 60 else f"{text[:57]}..."

"""What a run tells: a bar for whoever watches, `metrics.jsonl` and `answers.jsonl` for later, and
accelerate's trackers.

Every row has its step. A resumed run cuts the files back to the step of its state, so that in the
end each step is there once, however often the run was killed.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType
from rich import progress
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from vlm.chat import clean
from vlm.errors import ConfigError, DataError, shortened
from vlm.files import append_rows, disk, read_rows, write_rows

METRICS, ANSWERS, TRACKERS = "metrics.jsonl", "answers.jsonl", "trackers"

DECAY = 0.9
"""What the bar shows is smoothed: a step counts this much less with each one behind it. The files
have every step's own values."""


class RunLog:
    """The log of one run, a context manager. Every process has one; the main one shows and writes.
    `first_step` are the steps done before (0 begins the files anew), `peak_flops` the operations a
    second that one process's device can do.

    Raises:
        ConfigError: a tracker that does not exist, is not installed or does not start.
        DataError: the files there are not those of a run, or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        console: Console,
        total_steps: int,
        first_step: int = 0,
        peak_flops: float | None = None,
        trackers: list[str] | None = None,
    ) -> None:
        self._folder, self._accelerator, self._console = folder, accelerator, console
        self._total_steps, self._first_step = total_steps, first_step
        self._trackers = tracker_names(trackers)
        self._peak_flops = peak_flops and peak_flops * accelerator.num_processes
        self._smoothed: dict[str, tuple[float, float]] = {}
        self._skipped = 0
        self._status = ""
        self._bar = progress.Progress(
            progress.MofNCompleteColumn(),
            progress.BarColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            # Rich would forget steps that took longer than half a minute, and with them the ETA.
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task("steps", total=total_steps, completed=first_step)

    def __enter__(self) -> "RunLog":
        with ExitStack() as stack:
            if self._accelerator.is_main_process:
                for name in (METRICS, ANSWERS):
                    file = self._folder / name
                    rows = read_log(file) if self._first_step else []
                    write_rows(file, [row for row in rows if row["step"] <= self._first_step])
            stack.enter_context(self._tracking())
            if self._accelerator.is_main_process and self._console.is_terminal:
                shown = Live(
                    get_renderable=lambda: Group(self._bar, Text(self._status)),
                    console=self._console,
                )
                stack.enter_context(shown)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def step(
        self,
        step: int,
        tokens: int,
        images: int,
        seconds: float,
        waited: float,
        flops: float | None = None,
        reward: float | None = None,
        **others: float,
    ) -> None:
        """A step, counted from 1, is done: tokens of text and images, images and operations of all
        processes, seconds and those spent waiting for data, mean reward of the captions that the
        model drew; `others` are kept as they are: epoch, mean loss of a supervised token, learning
        rate, norm of the gradient before clipping, answers that `max_length` cut."""
        row = {
            "step": step,
            **others,
            "tokens": tokens,
            "images": images,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "images_per_second": images / seconds,
            "data_wait": waited / seconds,
            "memory": memory_in_use(self._accelerator.device),
        }
        if flops is not None and self._peak_flops is not None:
            row["mfu"] = flops / seconds / self._peak_flops
        if reward is not None:
            row["reward"] = reward
        self._smooth(row | {"waited": waited, "flops": flops})
        self._status = self._words(row["memory"])
        self._bar.update(self._task, completed=step)
        self._write(METRICS, step, [row], row)
        # A file or pipe shows no bar: a line now and then says that the run is not stuck.
        if not self._console.is_terminal and step % max(1, self._total_steps // 100) == 0:
            self.note(f"step {step:,} of {self._total_steps:,}  {self._status}")

    def skipped(self, step: int, value: float) -> None:
        """A step left the weights as they were, because its loss or the norm of its gradient,
        `value`, is no number; `step` may be told of it as well."""
        self._skipped += 1
        self._write(METRICS, step, [{"skipped": str(value)}], {"skipped": self._skipped})
        self.note(f"step {step:,} skipped: its loss or gradient is {value}")

    def validation(self, step: int, loss: float) -> None:
        """What a supervised token of the held-out samples loses on average after a step."""
        row = {"validation_loss": loss}
        self._write(METRICS, step, [row], row)
        self.note(f"step {step:,}: validation loss {loss:.4f}")

    def scores(self, step: int, scores: dict[str, float]) -> None:
        """What was measured on held-out photos after a step, in percent."""
        self._write(METRICS, step, [scores], scores)
        told = ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
        self.note(f"step {step:,}: {told}")

    def answers(
        self, step: int, answers: Sequence[tuple[str, str, str]], held_out: bool = False
    ) -> None:
        """What the model says after a step: photo, question and answer of each, of samples that are
        held out or trained on."""
        names = ("photo", "question", "answer")
        rows = [dict(zip(names, (shortened(p), q, a), strict=True)) for p, q, a in answers]
        told = [" ".join("{photo}: {question} -> {answer}".format(**row).split()) for row in rows]
        self.note(f"step {step:,}: answers to {'held-out' if held_out else 'training'} samples")
        self._write(ANSWERS, step, rows, {"answers": "\n\n".join(told)})
        for line in told:
            self.note(f"  {line}")

    def note(self, text: str) -> None:
        """Says something beside the bar."""
        if self._accelerator.is_main_process:
            self._console.print(Text(clean(text)))

    def _write(
        self, name: str, step: int, rows: list[dict[str, Any]], tracked: dict[str, Any]
    ) -> None:
        """Writes rows into a file, and tells the trackers."""
        if not self._accelerator.is_main_process:
            return
        append_rows(self._folder / name, [finite({"step": step} | row) for row in rows])
        known = {key: value for key, value in finite(tracked).items() if value is not None}
        known.pop("step", None)
        with disk(f"cannot write {self._folder / TRACKERS}"):
            self._accelerator.log(known, step=step)

    @contextmanager
    def _tracking(self) -> Iterator[None]:
        """Within, `accelerator.log` reaches the trackers. All processes come here."""
        accelerator = self._accelerator
        accelerator.project_configuration.logging_dir = str(self._folder / TRACKERS)
        accelerator.log_with = [LoggerType(name) for name in self._trackers]
        # What TensorBoard was told of later steps is hidden.
        options = {"tensorboard": {"purge_step": self._first_step + 1 if self._first_step else 0}}
        try:
            accelerator.init_trackers("vlm", init_kwargs=options)
        except Exception as error:  # Each tracker has its own.
            accelerator.trackers.clear()
            reason = " ".join(str(error).split())
            names = ", ".join(self._trackers)
            raise ConfigError(f"cannot start the trackers {names}: {reason}") from error
        try:
            yield
        finally:
            # Accelerator.end_training also ends the process group, which the caller may still need.
            with disk(f"cannot write {self._folder / TRACKERS}"):
                for tracker in accelerator.trackers:
                    tracker.finish()
            accelerator.trackers.clear()

    def _smooth(self, values: dict[str, float | None]) -> None:
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                total, weight = self._smoothed.get(name, (0.0, 0.0))
                self._smoothed[name] = (DECAY * total + value, DECAY * weight + 1)

    def _words(self, memory: int) -> str:
        means = {name: total / weight for name, (total, weight) in self._smoothed.items()}
        seconds = means["seconds"]
        words = [f"loss (smoothed) {means['loss']:.3f}"] if "loss" in means else []
        if "reward" in means:
            words.append(f"reward {means['reward']:.3f}")
        words.append(f"{means['tokens'] / seconds:,.0f} tokens/s")
        words.append(f"{means['images'] / seconds:,.1f} images/s")
        words.append(f"{means['waited'] / seconds:.0%} waiting for data")
        words.append(f"{memory / 2**30:.1f} GiB")
        if "flops" in means and self._peak_flops is not None:
            words.append(f"MFU {means['flops'] / seconds / self._peak_flops:.1%}")
        if self._skipped:
            words.append(f"{self._skipped} skipped")
        return "  ".join(words)


def read_log(file: Path) -> list[dict[str, Any]]:
    """The rows of a file that a log wrote, each with its `step`; none if there is no file. A
    DataError names the line that is no such row."""
    rows = read_rows(file)
    for number, row in rows:
        if not isinstance(row.get("step"), int):
            raise DataError(f"{file}, line {number}: it has no step")
    return [row for _, row in rows]


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for numbers that are not finite, which JSON has no word for."""
    return json.loads(json.dumps(row), parse_constant=lambda _: None)


def tracker_names(names: list[str] | None) -> list[str]:
    """Each once; for None, TensorBoard if it is installed."""
    installed = [str(kind) for kind in get_available_trackers()]
    if names is None:
        return [name for name in installed if name == "tensorboard"]
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            choices = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise ConfigError(f"no tracker {name!r}: there are {choices}")
        if name not in installed:
            raise ConfigError(f"tracker {name} is not installed: pip install {name}")
    return list(dict.fromkeys(names))


def memory_in_use(device: torch.device) -> int:
    """Bytes: on CUDA the most that was allocated so far, else this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss

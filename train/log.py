"""What a run tells: a bar for whoever watches, `metrics.jsonl` and `answers.jsonl` for later, and
accelerate's trackers.

Every row has its step. A run that goes on from a state cuts the files back to the step of that
state, so that in the end each step is there once, however often the run was killed.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from train.jsonl import finite, open_rows, write_row, writing
from train.trackers import tracker_names, tracking
from vlm.chat import clean

METRICS, ANSWERS, TRACKERS = "metrics.jsonl", "answers.jsonl", "trackers"

DECAY = 0.9
"""What the bar shows is smoothed: a step counts this much less with each one behind it. The files
have every step's own values."""


class RunLog:
    """The log of one run, a context manager. Every process has one; the main one shows and writes.

    Args:
        folder: of the run.
        accelerator: of the run.
        console: where the bar and the notes go.
        total_steps: steps of the whole run.
        first_step: steps done before; 0 begins the files anew.
        peak_flops: floating-point operations a second that one process's device can do; None if
            that is not known.
        trackers: names of accelerate's trackers; None is TensorBoard if it is installed.

    Raises:
        ConfigError: a tracker that does not exist or is not installed; on entering, one that does
            not start.
        DataError: on entering: the files there are not those of a run.
        VLMError: on entering and from every method: the folder cannot be written.
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
        self._sums: dict[str, float] = {}
        self._skipped = 0
        self._status = ""
        columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        # Rich would forget steps that took longer than half a minute, and with them the ETA.
        self._bar = Progress(*columns, console=console, speed_estimate_period=600)
        self._task = self._bar.add_task("steps", total=total_steps, completed=first_step)

    def __enter__(self) -> "RunLog":
        with ExitStack() as stack:
            if self._accelerator.is_main_process:
                self._metrics, self._answers = (
                    stack.enter_context(open_rows(self._folder / name, self._first_step))
                    for name in (METRICS, ANSWERS)
                )
            trackers = self._folder / TRACKERS
            stack.enter_context(
                tracking(self._accelerator, self._trackers, trackers, self._first_step)
            )
            if self._accelerator.is_main_process and self._console.is_terminal:
                stack.enter_context(Live(get_renderable=self._shown, console=self._console))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        with writing(self._folder):
            self._stack.__exit__(*error)

    def step(
        self,
        step: int,
        epoch: int,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        tokens: int,
        images: int,
        seconds: float,
        waited: float,
        flops: float | None = None,
        reward: float | None = None,
    ) -> None:
        """A step is done.

        Args:
            step: counted from 1.
            epoch: counted from 0.
            loss: mean over the supervised tokens.
            learning_rate: that it was done with.
            gradient_norm: before clipping.
            tokens: of text and images, of all processes.
            images: of all processes.
            seconds: that it took.
            waited: seconds of them spent waiting for data.
            flops: floating-point operations that the model needs for it, of all processes.
            reward: mean over the captions that the model drew, if it drew any.
        """
        if not self._accelerator.is_main_process:
            return
        row = {
            "step": step,
            "epoch": epoch,
            "loss": loss,
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm,
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
            self._sum(flops=flops)
        if reward is not None:
            row["reward"] = reward
            self._sum(reward=reward, rewards=1)
        if math.isfinite(loss):
            self._sum(loss=loss, losses=1)
        self._sum(tokens=tokens, images=images, seconds=seconds, waited=waited)
        self._status = self._words(row["memory"])
        self._bar.update(self._task, completed=step)
        write_row(self._metrics, row)
        self._track(row)
        # A file or pipe shows no bar: a line now and then says that the run goes on.
        if not self._console.is_terminal and step % max(1, self._total_steps // 100) == 0:
            self.note(f"step {step:,} of {self._total_steps:,}  {self._status}")

    def skipped(self, step: int, value: float) -> None:
        """A step left the weights as they were, because its loss or gradient is no number.

        Args:
            step: counted from 1; `step` may be told of it as well.
            value: the loss or the norm of the gradient.
        """
        if self._accelerator.is_main_process:
            self._skipped += 1
            write_row(self._metrics, {"step": step, "skipped": str(value)})
            self._track({"step": step, "skipped": self._skipped})
            self.note(f"step {step:,} skipped: its loss or gradient is {value}")

    def validation(self, step: int, loss: float) -> None:
        """What a supervised token of the held-out samples loses on average after a step."""
        if self._accelerator.is_main_process:
            row = {"step": step, "validation_loss": loss}
            write_row(self._metrics, row)
            self._track(row)
            self.note(f"step {step:,}: validation loss {loss:.4f}")

    def answers(self, step: int, answers: Sequence[tuple[str, str, str]]) -> None:
        """What the model says after a step: photo, question and answer of each."""
        if self._accelerator.is_main_process:
            told = []
            for photo, question, answer in answers:
                row = {"step": step, "photo": photo, "question": question, "answer": answer}
                write_row(self._answers, row)
                told.append(" ".join(f"{photo}: {question} -> {answer}".split()))
                self.note(f"  {told[-1]}")
            self._track({"step": step, "answers": "\n\n".join(told)})

    def note(self, text: str) -> None:
        """Says something beside the bar."""
        if self._accelerator.is_main_process:
            self._console.print(Text(clean(text)))

    def _track(self, row: dict[str, Any]) -> None:
        known = {name: value for name, value in finite(row).items() if value is not None}
        with writing(self._folder / TRACKERS):
            self._accelerator.log(known, step=known.pop("step"))

    def _sum(self, **values: float) -> None:
        for name, value in values.items():
            self._sums[name] = DECAY * self._sums.get(name, 0.0) + value

    def _words(self, memory: int) -> str:
        sums, seconds = self._sums, self._sums["seconds"]
        words = [f"loss {sums['loss'] / sums['losses']:.3f}"] if "loss" in sums else []
        if "reward" in sums:
            words.append(f"reward {sums['reward'] / sums['rewards']:.3f}")
        words.append(f"{sums['tokens'] / seconds:,.0f} tokens/s")
        words.append(f"{sums['images'] / seconds:,.1f} images/s")
        words.append(f"{sums['waited'] / seconds:.0%} waiting for data")
        words.append(f"{memory / 2**30:.1f} GiB")
        if "flops" in sums:
            words.append(f"MFU {sums['flops'] / seconds / self._peak_flops:.1%}")
        if self._skipped:
            words.append(f"{self._skipped} skipped")
        return "  ".join(words)

    def _shown(self) -> Group:
        return Group(self._bar, Text(self._status))


def memory_in_use(device: torch.device) -> int:
    """Bytes: on CUDA the most that was allocated so far, else this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss

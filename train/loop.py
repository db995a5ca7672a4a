"""The training loop, whatever trains: epochs of steps that can be stopped, resumed and skipped."""

import math
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any, Protocol

from train.config import TrainConfig
from train.loader import prepared_batches
from train.log import RunLog
from train.resume import TrainingState
from vlm.errors import VLMError


class Batches(Protocol):
    """The batches of one process: all steps of the run, and those of an epoch from a step on."""

    total_steps: int

    def training_batches(self, epoch: int, from_step: int) -> Any: ...


@dataclass
class Loop(ABC):
    """A run: what trains, and on what."""

    config: TrainConfig
    state: TrainingState
    epochs: Batches
    log: RunLog

    def __post_init__(self) -> None:
        state = self.state
        self.accelerator, self.model, self.network = state.accelerator, state.model, state.network

    @abstractmethod
    def step(self, together: list[Any], stopping: bool, began: float, waited: float) -> bool:
        """One change of the weights. `stopping` says whether this process was told to end; returned
        is whether any was."""

    @abstractmethod
    def validate(self) -> None:
        """Measures on what is held out, and keeps a checkpoint."""

    @abstractmethod
    def answer(self) -> None:
        """Shows what the model says by now."""

    @abstractmethod
    def train_mode(self) -> None:
        """Dropout where something trains."""

    def train(self) -> None:
        """Runs to the end, from wherever it is; a VLMError at a signal to end."""
        at = self.state.at
        self.train_mode()
        with signals() as received:
            # A signal in the last step of an epoch leaves its end, though no step, to be done.
            while at.step < self.epochs.total_steps or at.closed < at.step:
                self.epoch(received)

    def epoch(self, received: list[int]) -> None:
        """What is left of one epoch."""
        config, at = self.config, self.state.at
        loader = self.epochs.training_batches(at.epoch, at.step_in_epoch)
        end = at.step + len(loader) // config.accumulate
        last = min(end, self.epochs.total_steps)
        with prepared_batches(loader) as batches:
            while at.step < last:
                began = perf_counter()
                together = list(islice(batches, config.accumulate))
                stop = self.step(together, bool(received), began, waited=perf_counter() - began)
                # At the end of the epoch all of it is done anyway.
                within = at.step < last
                if within and due(config.validate_every, at.step):
                    self.validate()
                if within and due(config.answer_every, at.step):
                    self.answer()
                if stop or (within and due(config.save_every, at.step)):
                    self.state.save(config)
                if stop:
                    name = signal.Signals(received[0]).name if received else "a signal"
                    raise VLMError(
                        f"stopped by {name} at step {at.step}: --resume resumes from there"
                    )
        at.closed = at.step
        if at.step == end:
            at.epoch, at.step_in_epoch = at.epoch + 1, 0
        self.validate()
        self.answer()
        self.state.save(config)

    def set_rate(self) -> float:
        """Gives the optimizer the learning rate of the step to come."""
        config = self.config
        rate = config.learning_rate * schedule(
            self.state.at.step, config.warmup, self.epochs.total_steps
        )
        for group in self.state.optimizer.param_groups:
            group["lr"] = group["peak"] * rate / config.learning_rate
        return rate

    def clip_gradients(self) -> float:
        """Gives the norm of all gradients before they are clipped."""
        trained = [p for group in self.state.optimizer.param_groups for p in group["params"]]
        return float(self.accelerator.clip_grad_norm_(trained, self.config.clip))

    def update(self, loss: float, norm: float) -> None:
        """Changes the weights, or counts it as skipped, where loss or gradient is not a number."""
        state, at, scaler = self.state, self.state.at, self.accelerator.scaler
        # A float16 scaler looks for its scale by overflowing: it skips such a step by itself.
        searching = scaler is not None and scaler.get_scale() > 1
        finite = math.isfinite(loss) and (math.isfinite(norm) or searching)
        if finite:
            state.optimizer.step()
            if math.isfinite(norm):
                state.average.update()
        elif scaler is not None:
            # It has seen these gradients, and would refuse those of the next step.
            scaler.update()
        state.optimizer.zero_grad()
        at.step += 1
        at.step_in_epoch += 1
        if finite:
            return
        value = norm if math.isfinite(loss) else loss
        at.skipped_steps += 1
        self.log.skipped(at.step, value)
        if at.skipped_steps > self.config.max_skipped:
            raise VLMError(
                f"loss or gradient was {value} at step {at.step}, which makes "
                f"{at.skipped_steps} such steps, more than max_skipped: lower learning_rate"
            )


def due(every: int | None, step: int) -> bool:
    """Whether something that happens every so many steps happens after this one."""
    return every is not None and step % every == 0


def schedule(step: int, warmup: float, total: int) -> float:
    """Share of the peak learning rate in the step behind `step` others: a linear rise, then half a
    cosine down to zero (Loshchilov & Hutter 2016; transformers' cosine schedule)."""
    rise = round(warmup * total)
    if step < rise:
        return step / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


@contextmanager
def signals() -> Iterator[list[int]]:
    """Within, the first SIGTERM or SIGINT is written into the list given; a second one ends the
    process as it always does."""
    told: list[int] = []
    before = {}

    def tell(number: int, _: Any) -> None:
        told.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, tell)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

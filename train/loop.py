"""The training loop: batches in, steps, validation, states to go on from, a checkpoint out."""

import math
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import DataLoader

import vlm
from train.batch import Batch
from train.config import TrainConfig
from train.epochs import Epochs
from train.flops import ModelFlops
from train.loader import Prepared, prepared_batches
from train.log import RunLog
from train.loss import target_loss
from train.rewards import DRAWS, SelfCritical
from train.state import load_state, restore_random_state, save_state
from vlm.checkpoint import save
from vlm.data.sample import Skipped
from vlm.data.skipped import check_share
from vlm.errors import CheckpointError, DataError, VLMError

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
"""Where no process has all weights."""

ANSWER_LENGTH = 48
"""Tokens of an answer that is looked at during a run, at most."""


@dataclass
class Position:
    """Where a run is.

    Attributes:
        step: changes of the weights so far, skipped ones included.
        epoch: passes over the data that are complete.
        step_in_epoch: steps of the epoch that it is in.
        closed: steps after which it was last measured and kept, as at the end of each epoch.
        skipped_steps: steps whose loss or gradient was not a number.
        unusable: samples of this epoch that could not be used.
        best: lowest validation loss so far.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    closed: int = 0
    skipped_steps: int = 0
    unusable: int = 0
    best: float = math.inf


@dataclass
class Run:
    """What trains, and on what.

    Attributes:
        config: of the run, resolved.
        accelerator: processes and precision.
        model: the model itself.
        network: the model as the accelerator prepared it.
        optimizer: likewise.
        epochs: the data.
        flops: what a step costs.
        self_critical: draws captions to learn from, if any are to be drawn.
        average: running averages of what trains, by name, if there are any.
        at: where it is.
        held_out_checked: whether it was told which held-out samples cannot be used.
    """

    config: TrainConfig
    accelerator: Accelerator
    model: vlm.VisionLanguageModel
    network: nn.Module
    optimizer: AcceleratedOptimizer
    epochs: Epochs
    flops: ModelFlops
    self_critical: SelfCritical | None = None
    average: dict[str, Tensor] | None = None
    at: Position = field(default_factory=Position)
    held_out_checked: bool = False

    def __post_init__(self) -> None:
        if self.config.ema:
            self.average = {
                name: parameter.detach().clone()
                for name, parameter in self.model.named_parameters()
                if parameter.requires_grad
            }

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed holds the weights: it clips and steps inside the backward pass."""
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED

    @property
    def way_on(self) -> str:
        """What a user who ended the run can do."""
        return "it cannot be resumed" if self.deepspeed else "--resume goes on from there"

    def train(self, log: RunLog) -> None:
        """Runs to the end, from wherever it is, and tells the log.

        Raises:
            VLMError: too many losses that are not numbers, or a signal to end.
            DataError: too many samples that cannot be used.
            CheckpointError: the disk refuses.
        """
        self.log = log
        self.train_mode()
        with signals() as told:
            # A signal in the last step of an epoch leaves its end, though no step, to be done.
            while self.at.step < self.epochs.total_steps or self.at.closed < self.at.step:
                self.epoch(self.epochs.loader(self.at.epoch, self.at.step_in_epoch), told)

    def epoch(self, loader: DataLoader, told: list[int]) -> None:
        """What is left of one epoch."""
        config, at = self.config, self.at
        end = at.step + len(loader) // config.accumulate
        last = min(end, self.epochs.total_steps)
        with prepared_batches(loader) as batches:
            while at.step < last:
                began = perf_counter()
                together = list(islice(batches, config.accumulate))
                stop = self.step(together, bool(told), began, waited=perf_counter() - began)
                # At the end of the epoch all of it is done anyway.
                if due(config.validate_every, at.step) and at.step < last:
                    self.validate()
                if due(config.answer_every, at.step) and at.step < last:
                    self.answer()
                if stop or (due(config.save_every, at.step) and at.step < last):
                    self.save_state()
                if stop:
                    name = signal.Signals(told[0]).name if told else "a signal"
                    raise VLMError(f"stopped by {name} at step {at.step}: {self.way_on}")
        at.closed = at.step
        if at.step == end:
            at.epoch, at.step_in_epoch, at.unusable = at.epoch + 1, 0, 0
        self.validate()
        self.answer()
        self.save_state()

    def step(self, together: list[Prepared], told: bool, began: float, waited: float) -> bool:
        """One change of the weights, every supervised token of all batches and processes weighing
        the same.

        Returns:
            Whether some process was told to end.
        """
        config, accelerator, at = self.config, self.accelerator, self.at
        rate = config.learning_rate * schedule(at.step, config.warmup, self.epochs.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate / config.learning_rate
        skipped = [sample for prepared in together for sample in prepared.skipped]
        batches, reward = self.batches(together)
        lengths = [group_lengths(batch) for batch in batches]
        own = [
            sum(len(batch.target_ids) for batch in batches),
            sum(int(length.sum()) for length in lengths),
            sum(int(length.square().sum()) for length in lengths),
            sum(prepared.images for prepared in together),
            len(skipped),
            int(told),
        ]
        counts = accelerator.reduce(torch.tensor(own, device=accelerator.device), "sum").tolist()
        targets, tokens, pairs, images, unusable, stop = counts
        if unusable:
            self.count_unusable(skipped, unusable)
        total = torch.zeros((), device=accelerator.device)
        for batch in batches:
            # Processes exchange gradients once, with those of the last batch.
            accelerator.sync_gradients = last = batch is batches[-1]
            with nullcontext() if last or self.deepspeed else accelerator.no_sync(self.network):
                loss = self.network(batch.to(accelerator.device), target_loss)
                # DDP averages over processes, but each token is to weigh 1 / targets.
                accelerator.backward(loss * (accelerator.num_processes / max(targets, 1)))
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(self.trained_parameters(), config.clip)
        loss = float(accelerator.reduce(total, "sum")) / max(targets, 1)
        norm = float(norm)
        # A float16 scaler looks for its scale by overflowing: it skips such a step by itself.
        searching = accelerator.scaler is not None and accelerator.scaler.get_scale() > 1
        finite = math.isfinite(loss) and (math.isfinite(norm) or searching)
        if finite:
            self.optimizer.step()
            if math.isfinite(norm):
                self.update_average()
        elif accelerator.scaler is not None:
            # It has seen these gradients, and would refuse those of the next step.
            accelerator.scaler.update()
        self.optimizer.zero_grad()
        at.step += 1
        at.step_in_epoch += 1
        if not finite:
            self.skip(loss if not math.isfinite(loss) else norm)
        self.log.step(
            step=at.step,
            epoch=at.epoch,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=tokens,
            images=images,
            seconds=perf_counter() - began,
            waited=waited,
            flops=self.flops.step(tokens, pairs, targets, images),
            reward=reward,
        )
        return stop > 0

    def batches(self, together: list[Prepared]) -> tuple[list[Batch], float | None]:
        """The batches of a step, with the captions that the model draws now, and the mean reward of
        those, over all processes; None if there are none."""
        if self.self_critical is None:
            return [prepared.batch for prepared in together], None
        drafts = [prepared.drafts for prepared in together if prepared.drafts]
        drawn, rewarded = DRAWS * sum(map(len, drafts)), 0.0
        batches = [p.batch for p in together if len(p.batch.target_ids) or not p.drafts]
        if drafts:
            with self.decoding():
                own, rewarded = self.self_critical(drafts)
            batches += own
        sums = torch.tensor([rewarded, drawn], device=self.accelerator.device)
        rewarded, drawn = self.accelerator.reduce(sums, "sum").tolist()
        return batches, rewarded / drawn if drawn else None

    def skip(self, value: float) -> None:
        """Counts a step whose loss or gradient is not a number.

        Raises:
            VLMError: there were too many.
        """
        self.at.skipped_steps += 1
        self.log.skipped(self.at.step, value)
        if self.deepspeed:
            raise VLMError(
                f"loss or gradient was {value} at step {self.at.step}, and DeepSpeed has changed "
                "the weights by it: lower learning_rate, or use FSDP2, which skips such steps"
            )
        if self.at.skipped_steps > self.config.max_skipped:
            raise VLMError(
                f"loss or gradient was {value} at step {self.at.step}, which makes "
                f"{self.at.skipped_steps} such steps, more than max_skipped: lower learning_rate"
            )

    def count_unusable(self, own: list[Skipped], count: int) -> None:
        """Reports samples that turned out unusable in this step.

        Raises:
            DataError: they are more of this epoch than is allowed.
        """
        self.at.unusable += count
        everyone: list[Skipped] = gather_object(own)
        self.epochs.report(everyone)
        before = self.epochs.skipped
        size = self.epochs.size(self.at.epoch) + len(before)
        unusable = self.at.unusable + len(before)
        if unusable > self.config.allowed_unusable * size:
            reasons = ", ".join(sorted({sample.reason for sample in [*before, *everyone]}))
            raise DataError(
                f"{unusable} of {size} samples could not be used ({reasons}), more than "
                f"allowed_unusable={self.config.allowed_unusable}: see {self.epochs.report_file}"
            )

    def train_mode(self) -> None:
        """Dropout where something trains; a frozen language model needs the mode only to compute
        its activations again."""
        self.network.train()
        frozen = self.config.trains.language == "frozen"
        if frozen and not self.config.gradient_checkpointing:
            self.model.language.eval()

    def trained_parameters(self) -> list[nn.Parameter]:
        """Whatever trains."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def update_average(self) -> None:
        """Moves the running averages towards the weights."""
        if self.average is not None:
            weights = dict(self.model.named_parameters())
            for name, average in self.average.items():
                average.lerp_(weights[name].detach(), 1 - self.config.ema)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the model has its averaged weights, if there are any."""
        if self.average is None:
            yield
            return
        weights = {name: p for name, p in self.model.named_parameters() if name in self.average}
        kept = {name: parameter.detach().clone() for name, parameter in weights.items()}
        try:
            with torch.no_grad():
                for name, average in self.average.items():
                    weights[name].copy_(average)
            yield
        finally:
            with torch.no_grad():
                for name, parameter in weights.items():
                    parameter.copy_(kept[name])

    def validate(self) -> None:
        """Measures the loss of the held-out samples, and keeps the checkpoint if it is the best;
        without such samples, keeps it in any case.

        Raises:
            VLMError: the loss is not a number, so that none can be the best.
        """
        with self.averaged():
            if not self.epochs.held_out:
                self.save_checkpoint()
                return
            self.network.eval()
            batches = self.epochs.validation()
            loss, skipped = validation_loss(self.accelerator, self.network, batches)
            self.train_mode()
            self.check_held_out(skipped)
            self.log.validation(self.at.step, loss)
            if not math.isfinite(loss):
                raise VLMError(
                    f"the loss of the held-out samples is {loss} at step {self.at.step}: lower "
                    "learning_rate, or look at validation"
                )
            if loss < self.at.best:
                self.at.best = loss
                self.save_checkpoint()

    def check_held_out(self, own: list[Skipped]) -> None:
        """Reports held-out samples that turned out unusable; the same each time, so once.

        Raises:
            DataError: they are more than is allowed.
        """
        everyone: list[Skipped] = gather_object(own)
        if not self.held_out_checked:
            self.held_out_checked = True
            self.epochs.report(everyone)
            held_out, allowed = len(self.epochs.held_out), self.config.allowed_unusable
            check_share(everyone, held_out, allowed, self.epochs.report_file)

    def answer(self) -> None:
        """Asks a few held-out samples, or, without them, a few that are trained on. Sharded weights
        cannot generate: there it does nothing."""
        if self.accelerator.distributed_type in SHARDED:
            return
        if self.accelerator.is_main_process:
            with self.decoding(), self.averaged():
                self.model.forget_images()
                asked = self.epochs.questions(ANSWER_LENGTH)
                pairs = [(images, text) for _, images, text in asked]
                answers = self.model.batch(pairs, max_tokens=ANSWER_LENGTH)
                self.model.forget_images()
            told = [
                (name, text, answer) for (name, _, text), answer in zip(asked, answers, strict=True)
            ]
            self.log.answers(self.at.step, told)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Within, the model is ready to generate."""
        language = self.model.language.model
        attention = language.config._attn_implementation
        if attention == "flex_attention":
            # It would be compiled anew for each step of decoding.
            language.set_attn_implementation("sdpa")
        self.network.eval()
        # Compiled layers would be compiled anew for decoding, too.
        eager = torch.compiler.set_stance("force_eager")
        with eager, self.accelerator.autocast():
            yield
        language.set_attn_implementation(attention)
        self.train_mode()

    def save_checkpoint(self) -> None:
        """Writes the model, to talk to and to go on from, into `checkpoint`."""
        trained = self.trained_tensors()
        if self.accelerator.is_main_process:
            save(self.model.config, trained, self.config.output / "checkpoint")
        self.accelerator.wait_for_everyone()

    def trained_tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, whole, wherever their parts are; on the CPU."""
        if self.deepspeed:
            # Of ZeRO-3, only the main process has them.
            state = self.accelerator.get_state_dict(self.network) or {}
            return {name: state[name].cpu() for name in sorted(self.model.trained) if name in state}
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(self.network, options=options)
        return {name: state[name] for name in sorted(self.model.trained) if name in state}

    def save_state(self) -> None:
        """Writes all that is needed to go on from here; not with DeepSpeed, whose own states are
        pickles."""
        if self.deepspeed:
            return
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        training: dict[str, Any] = {
            "at": asdict(self.at),
            # Not accelerate's wrapper, whose step asks a float16 scaler that has not begun.
            "optimizer": get_optimizer_state_dict(
                self.network, self.optimizer.optimizer, options=options
            ),
            "average": self.average,
            "data": self.epochs.fingerprint,
        }
        if self.accelerator.scaler is not None:
            training["scaler"] = self.accelerator.scaler.state_dict()
        save_state(
            self.config.output / "state",
            self.at.step,
            self.trained_tensors(),
            training,
            self.accelerator,
            self.config.keep,
        )

    def load_state(self, folder: Path) -> None:
        """Puts back what `save_state` wrote, but for what the config says: learning rates and such,
        averages that the run did not have before.

        Raises:
            CheckpointError: written by fewer processes, or something else was trained.
        """
        trained, training = load_state(folder)
        self.check_trained(folder, trained)
        options = StateDictOptions(full_state_dict=True, strict=False)
        self.load_optimizer(training["optimizer"], options)
        set_model_state_dict(self.network, trained, options=options)
        if self.average is not None:
            weights = dict(self.model.named_parameters())
            for name, average in self.average.items():
                average.copy_((training["average"] or weights)[name].detach())
        if self.accelerator.scaler is not None and "scaler" in training:
            self.accelerator.scaler.load_state_dict(training["scaler"])
        self.at = Position(**training["at"])
        if training["data"] != self.epochs.fingerprint:
            # Losses of other samples do not compare.
            self.at.best = math.inf
        restore_random_state(folder, self.accelerator.process_index)

    def load_optimizer(self, state: dict[str, Any], options: StateDictOptions) -> None:
        """Puts back the optimizer's moments; its settings stay those of the config."""
        optimizer = self.optimizer.optimizer
        settings = [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        set_optimizer_state_dict(self.network, optimizer, state, options=options)
        for group, own in zip(optimizer.param_groups, settings, strict=True):
            group.update(own)

    def check_trained(self, folder: Path, trained: dict[str, Tensor]) -> None:
        """Checks that a state has what this run trains.

        Raises:
            CheckpointError: it has other tensors; names the first.
        """
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


def group_lengths(batch: Batch) -> Tensor:
    """Tokens of each packed group, or of each row that is not packed."""
    if batch.blocks is None:
        return batch.attention_mask.sum(dim=1)
    groups = batch.blocks[..., 0]
    most = int(groups.max()) + 1
    rows = torch.arange(len(groups))[:, None] * most
    return torch.bincount((rows + groups)[groups >= 0])


def due(every: int | None, step: int) -> bool:
    """Whether something that happens every so many steps happens after this one."""
    return every is not None and step % every == 0


def schedule(step: int, warmup: float, total: int) -> float:
    """Of the peak learning rate, in the step behind `step` others: a linear rise, then half a
    cosine down to zero (Loshchilov & Hutter 2016; transformers' cosine schedule)."""
    rise = round(warmup * total)
    if step < rise:
        return step / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


@torch.no_grad()
def validation_loss(
    accelerator: Accelerator, network: nn.Module, batches: DataLoader | Iterable[Prepared]
) -> tuple[float, list[Skipped]]:
    """Mean loss of a supervised token, over all processes (no number if there is none), and this
    process's samples that cannot be used."""
    skipped: list[Skipped] = []
    total = torch.zeros(2, device=accelerator.device)
    with prepared_batches(batches) as each:
        for prepared in each:
            skipped += prepared.skipped
            batch = prepared.batch.to(accelerator.device)
            total += torch.stack(
                [network(batch, target_loss), torch.tensor(len(batch.target_ids)).to(total)]
            )
    loss, targets = accelerator.reduce(total, "sum").tolist()
    return loss / targets if targets else math.nan, skipped


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

"""The run of a vision-language model: its steps, validation, answers to look at, a checkpoint."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from train.batch import Batch
from train.epochs import Epochs
from train.flops import ModelFlops
from train.frozen_llama import FrozenLlama
from train.loader import Prepared, prepared_batches
from train.loop import Loop
from train.loss import target_loss
from train.rewards import SelfCritical
from vlm.checkpoint import save
from vlm.data.sample import Skipped
from vlm.errors import VLMError, WeightsError

ANSWER_LENGTH = 48
"""Tokens of an answer that is looked at during a run, at most."""


@dataclass
class ModelRun(Loop):
    """What trains, on what; `rewards` is None where the model draws no captions, `layers` where the
    language model's are transformers'."""

    epochs: Epochs
    flops: ModelFlops
    rewards: SelfCritical | None
    layers: FrozenLlama | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.loss = partial(target_loss, layers=self.layers)

    def step(self, together: list[Prepared], stopping: bool, began: float, waited: float) -> bool:
        """See `Loop.step`; every supervised token of all batches and processes weighs the same."""
        at = self.state.at
        rate = self.set_rate()
        batches, reward = [prepared.batch for prepared in together], None
        if self.rewards is not None:
            with self.decoding():
                batches, reward = self.rewards(together)
        images = sum(prepared.images for prepared in together)
        skipped = [sample for prepared in together for sample in prepared.skipped]
        cut = sum(prepared.cut for prepared in together)
        own = torch.tensor([*sizes(batches), images, cut, len(skipped), int(stopping)])
        everyone = self.accelerator.reduce(own.to(self.accelerator.device), "sum")
        targets, tokens, pairs, images, cut, unusable, stop = everyone.tolist()
        if unusable:
            self.epochs.report(skipped)
        loss, norm = self.backward(batches, targets)
        self.update(loss, norm)
        self.log.step(
            step=at.step,
            epoch=at.epoch,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            cut=cut,
            tokens=tokens,
            images=images,
            seconds=perf_counter() - began,
            waited=waited,
            flops=self.flops.step(tokens, pairs, targets, images),
            reward=reward,
        )
        return stop > 0

    def backward(self, batches: list[Batch], targets: int) -> tuple[float, float]:
        """Computes the gradients, and clips them; gives the mean loss of the supervised tokens, of
        which all processes have `targets`, and the gradient's norm before it is clipped."""
        accelerator = self.accelerator
        total = torch.zeros((), device=accelerator.device)
        for batch in batches:
            # Processes exchange gradients once, with those of the last batch.
            accelerator.sync_gradients = last = batch is batches[-1]
            with nullcontext() if last else accelerator.no_sync(self.network):
                loss = self.network(batch.to(accelerator.device), self.loss)
                # DDP averages over processes, but each token is to weigh 1 / targets.
                accelerator.backward(loss * (accelerator.num_processes / max(targets, 1)))
            total += loss.detach()
        norm = self.clip_gradients()
        return float(accelerator.reduce(total, "sum")) / max(targets, 1), norm

    def train_mode(self) -> None:
        """Dropout where something trains; a frozen language model needs the mode only to compute
        its activations again."""
        self.network.train()
        frozen = self.config.trains.language == "frozen"
        if frozen and not self.config.gradient_checkpointing:
            self.model.language.eval()

    def validate(self) -> None:
        """Measures the loss of the held-out samples, and keeps the checkpoint if it is the best;
        without such samples, keeps it in any case."""
        at = self.state.at
        with self.state.average.applied():
            if not self.epochs.held_out:
                self.save_checkpoint()
                return
            self.network.eval()
            batches = self.epochs.held_out_batches()
            loss, skipped = validation_loss(self.accelerator, self.network, batches, self.loss)
            self.train_mode()
            self.epochs.report(skipped)
            self.log.validation(at.step, loss)
            if not math.isfinite(loss):
                raise VLMError(
                    f"the loss of the held-out samples is {loss} at step {at.step}: lower "
                    "learning_rate, or look at validation"
                )
            if loss < at.best:
                at.best = loss
                self.save_checkpoint()

    def answer(self) -> None:
        """Asks a few held-out samples, or, without them, a few that are trained on. Sharded weights
        cannot generate: there it does nothing."""
        if self.accelerator.distributed_type == DistributedType.FSDP:
            return
        if self.accelerator.is_main_process:
            with self.decoding(), self.state.average.applied():
                self.model.forget_images()
                asked = self.epochs.questions(ANSWER_LENGTH)
                messages = [(None, messages) for _, _, messages in asked]
                try:
                    answers = self.model.batch(messages, max_tokens=ANSWER_LENGTH)
                except WeightsError:
                    # Whether that ends the run, its loss decides.
                    answers = ["(not a number)"] * len(asked)
                self.model.forget_images()
            told = [(*of[:2], answer) for of, answer in zip(asked, answers, strict=True)]
            self.log.answers(self.state.at.step, told, held_out=bool(self.epochs.held_out))
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
        """Writes the model, to talk to and to start from, into `checkpoint`."""
        trained = self.state.trained_tensors()
        if self.accelerator.is_main_process:
            save(self.model.config, trained, self.config.output / "checkpoint")
        self.accelerator.wait_for_everyone()


def sizes(batches: list[Batch]) -> list[int]:
    """Supervised tokens, tokens, and pairs of tokens of the same sequence, in several batches."""
    targets = sum(len(batch.target_ids) for batch in batches)
    lengths = torch.cat([group_lengths(batch) for batch in batches])
    return [targets, int(lengths.sum()), int(lengths.square().sum())]


def group_lengths(batch: Batch) -> Tensor:
    """Tokens of each packed group, or of each row that is not packed."""
    if batch.blocks is None:
        return batch.attention_mask.sum(dim=1)
    groups = batch.blocks[..., 0]
    most = int(groups.max()) + 1
    rows = torch.arange(len(groups))[:, None] * most
    return torch.bincount((rows + groups)[groups >= 0])


@torch.no_grad()
def validation_loss(
    accelerator: Accelerator,
    network: nn.Module,
    batches: Iterable[Prepared],
    loss_of: Callable[..., Tensor],
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
                [network(batch, loss_of), torch.tensor(len(batch.target_ids)).to(total)]
            )
    loss, targets = accelerator.reduce(total, "sum").tolist()
    return loss / targets if targets else math.nan, skipped

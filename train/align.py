"""Stage 1, `align`: train the projector on image-caption pairs, everything else frozen."""

import json
import math
import os
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TextIO

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

import vlm
from train.captions import CaptionRows, CaptionSample, CaptionSource, read_sources
from train.features import FeatureCache
from vlm.batch import Batch
from vlm.checkpoint import load_tensors, read
from vlm.config import ModelConfig
from vlm.errors import CheckpointError, ConfigError, DataError, VLMError
from vlm.weights import cache_dir


@dataclass
class AlignConfig:
    """Stage 1: the projector learns to speak the language model's tongue.

    Args:
        data: caption files to train on.
        validation: caption files whose loss is measured after each epoch; the checkpoint with the
            lowest is kept. None keeps the last.
        model: what is trained.
        projector: checkpoint whose projector training starts from; None is a fresh one.
        output: folder of the checkpoint and the logs.
        epochs: passes over the data.
        max_steps: changes of the weights after which it ends, if the epochs have more; the schedule
            ends there too. None is all of the epochs.
        save_every: changes of the weights between checkpoints, besides the one after each epoch;
            for runs without validation. None is none.
        batch_size: photos in one forward pass of one process.
        accumulate: forward passes of each process before the weights change.
        learning_rate: peak of the cosine schedule.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: of AdamW, on matrices; biases and norms have none.
        clip: largest norm of the gradient.
        seed: of initialisation, shuffle and questions.
        workers: processes that prepare the batches of each training process.
        augment: crop and flip every photo at random, anew in each epoch. The vision tower then runs
            in every step; without it, its features are computed once.
        features: folder for cached vision features; None is the cache folder of this project.
    """

    data: list[CaptionSource]
    validation: list[CaptionSource] | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    projector: Path | None = None
    output: Path = Path("runs/align")
    epochs: int = 3
    max_steps: int | None = None
    save_every: int | None = None
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    workers: int = 2
    augment: bool = False
    features: Path | None = None

    def __post_init__(self) -> None:
        for name, holds, allowed in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("max_steps", self.max_steps is None or self.max_steps >= 1, "at least 1"),
            ("save_every", self.save_every is None or self.save_every >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("accumulate", self.accumulate >= 1, "at least 1"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("warmup", 0 <= self.warmup <= 1, "from 0 to 1"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("clip", self.clip > 0, "above 0"),
            ("workers", self.workers >= 0, "0 or more"),
        ):
            if not holds:
                raise ConfigError(f"{name} must be {allowed}, not {getattr(self, name)}")
        if self.save_every and self.validation:
            raise ConfigError("validation keeps the best epoch: save_every is for runs without it")


def align(config: AlignConfig) -> Path:
    """Runs stage 1; under `accelerate launch` or `torchrun`, on every process that starts.

    Returns:
        The folder of the checkpoint, `config.output`.

    Raises:
        DataError: captions that cannot be read, or fewer photos than processes.
        CheckpointError: a `projector` that cannot be read or does not fit.
        VLMError: a loss that is no longer a number.
    """
    accelerator = Accelerator()
    console = Console(stderr=True, quiet=not accelerator.is_main_process)
    samples = read_sources(config.data)
    held_out = read_sources(config.validation or [])
    rank, world = accelerator.process_index, accelerator.num_processes
    if any(0 < len(photos) < world for photos in (samples, held_out)):
        raise DataError(f"fewer photos than the {world} processes: start fewer")
    set_seed(config.seed)
    model = vlm.build(config.model, device=accelerator.device)
    if config.projector:
        start_from(model, config.projector)
    freeze_all_but_projector(model, console)
    unchanging = held_out if config.augment else samples + held_out
    images = [sample.photo.image for sample in unchanging]
    root = config.features or cache_dir() / "features"
    features = None
    if images:
        vision = config.model.vision
        features = FeatureCache(model.vision, vision, images, root, accelerator.device)

    def loader(photos: list[CaptionSample], epoch: int) -> DataLoader:
        seen_anew = config.augment and photos is samples
        rows = CaptionRows(model, None if seen_anew else features, photos, config.seed, epoch)
        accumulate = config.accumulate if photos is samples else 1
        return rows.loader(config.batch_size, config.workers, rank, world, accumulate)

    steps = config.epochs * math.ceil(len(loader(samples, 0)) / config.accumulate)
    steps = min(steps, config.max_steps or steps)
    groups = parameter_groups(model.projector, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))
    schedule = get_cosine_schedule_with_warmup(optimizer, round(config.warmup * steps), steps)
    network = accelerator.prepare_model(model)
    optimizer = accelerator.prepare_optimizer(optimizer)
    step, best = 0, math.inf
    with open_log(config, accelerator.is_main_process) as log, progress(console) as bar:
        task = bar.add_task("align", total=steps, status="")
        for epoch in range(config.epochs):
            if step == steps:
                break
            batches = iter(loader(samples, epoch))
            began = perf_counter()
            while step < steps and (together := list(islice(batches, config.accumulate))):
                learning_rate = schedule.get_last_lr()[0]
                loss, tokens = train_step(accelerator, network, optimizer, together, config.clip)
                schedule.step()
                step += 1
                require_finite(loss, step)
                rate, began = tokens / (perf_counter() - began), perf_counter()
                bar.update(task, advance=1, status=f"loss {loss:.3f}  {rate:,.0f} tokens/s")
                row = {"step": step, "epoch": epoch, "loss": loss, "tokens_per_second": rate}
                log.write(json.dumps(row | {"learning_rate": learning_rate}) + "\n")
                due = config.save_every and step % config.save_every == 0
                if due and accelerator.is_main_process:
                    model.save(config.output / "checkpoint")
            if held_out:
                loss = validate(accelerator, model, loader(held_out, 0))
                require_finite(loss, step)
                console.print(f"epoch {epoch + 1}: validation loss {loss:.4f}")
                log.write(json.dumps({"step": step, "validation_loss": loss}) + "\n")
            if accelerator.is_main_process and (not held_out or loss < best):
                best = loss
                model.save(config.output / "checkpoint")
            accelerator.wait_for_everyone()
    accelerator.end_training()
    return config.output / "checkpoint"


def start_from(model: vlm.VisionLanguageModel, source: Path) -> None:
    """Puts the trained tensors of an earlier checkpoint into the model.

    Raises:
        CheckpointError: none there, or tensors of other names or shapes.
    """
    _, tensors = read(source)
    if tensors is None:
        raise CheckpointError(f"{source} is not a checkpoint of this project: no projector in it")
    load_tensors(model, tensors)


def freeze_all_but_projector(model: vlm.VisionLanguageModel, console: Console) -> None:
    """Freezes everything but the projector and says so."""
    table = Table("module", "parameters", "trains", "dtype")
    for name, module in model.named_children():
        trains = name == "projector"
        parameters = list(module.requires_grad_(trains).parameters())
        count = sum(parameter.numel() for parameter in parameters)
        dtype = str(parameters[0].dtype).removeprefix("torch.")
        table.add_row(name, f"{count:,}", "yes" if trains else "no", dtype)
    console.print(table)


def parameter_groups(projector: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices alone: on biases, norms and queries it only pulls towards zero."""
    matrices, others = [], []
    for name, parameter in projector.named_parameters():
        is_matrix = parameter.ndim > 1 and not name.endswith("queries")
        (matrices if is_matrix else others).append(parameter)
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def train_step(
    accelerator: Accelerator,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[Batch],
    clip: float,
) -> tuple[float, int]:
    """One change of the weights, every supervised token of all batches and processes weighing the
    same.

    Returns:
        The mean loss of a token, and how many there were, over all processes.
    """
    own = sum(len(batch.target_ids) for batch in batches)
    tokens = int(accelerator.reduce(torch.tensor(own, device=accelerator.device), "sum"))
    total = torch.zeros((), device=accelerator.device)
    for batch in batches:
        # Processes exchange gradients once, with those of the last batch.
        with nullcontext() if batch is batches[-1] else accelerator.no_sync(network):
            loss = network(batch.to(accelerator.device))
            # DDP averages over processes, but each token is to weigh 1 / tokens.
            accelerator.backward(loss * (accelerator.num_processes / tokens))
        total += loss.detach()
    accelerator.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    return float(accelerator.reduce(total, "sum")) / tokens, tokens


def require_finite(loss: float, step: int) -> None:
    """Stops a run that has diverged.

    Raises:
        VLMError: a loss that is no longer a number.
    """
    if not math.isfinite(loss):
        raise VLMError(f"the loss is {loss} at step {step}: lower learning_rate")


@torch.no_grad()
def validate(
    accelerator: Accelerator, model: vlm.VisionLanguageModel, batches: Iterable[Batch]
) -> float:
    """Mean loss of a token of held-out captions, over all processes."""
    total = torch.zeros(2, device=accelerator.device)
    for batch in batches:
        loss = model(batch.to(accelerator.device))
        total += torch.stack([loss, torch.tensor(float(len(batch.target_ids))).to(loss)])
    loss, tokens = accelerator.reduce(total, "sum").tolist()
    return loss / tokens


def progress(console: Console) -> Progress:
    """The bar of a run."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def open_log(config: AlignConfig, is_main: bool) -> TextIO:
    """`metrics.jsonl` in the run's folder, beside the config it runs with; of all processes, the
    main one writes them.

    Raises:
        VLMError: the folder cannot be written.
    """
    if not is_main:
        return open(os.devnull, "w")
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(config), indent=2, default=str)
        (config.output / "config.json").write_text(text + "\n", encoding="utf-8")
        return (config.output / "metrics.jsonl").open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise VLMError(f"cannot write {config.output}: {error.strerror}") from error

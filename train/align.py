"""Stage 1, `align`: train the projector on image-caption pairs, everything else frozen."""

import json
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter

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
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

import vlm
from train.captions import CaptionRows, CaptionSample, CaptionSource, epoch_batches, read_sources
from train.features import FeatureCache
from vlm.batch import Batch
from vlm.config import ModelConfig
from vlm.errors import ConfigError, VLMError
from vlm.weights import cache_dir


@dataclass
class AlignConfig:
    """Stage 1: the projector learns to speak the language model's tongue.

    Args:
        data: caption files to train on.
        validation: caption files whose loss is measured after each epoch; the checkpoint with the
            lowest is kept. None keeps the last.
        model: what is trained; its projector starts fresh.
        output: folder of the checkpoint and the logs.
        epochs: passes over the data.
        batch_size: photos in one forward pass of one process.
        accumulate: forward passes of each process before the weights change.
        learning_rate: peak of the cosine schedule.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: of AdamW, on matrices; biases and norms have none.
        clip: largest norm of the gradient.
        seed: of initialisation, shuffle and questions.
        workers: processes that prepare the batches of each training process.
        features: folder for cached vision features; None is the cache folder of this project.
    """

    data: list[CaptionSource]
    validation: list[CaptionSource] | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    output: Path = Path("runs/align")
    epochs: int = 3
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    workers: int = 2
    features: Path | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")


def align(config: AlignConfig) -> Path:
    """Runs stage 1; under `accelerate launch`, on every process it starts.

    Returns:
        The folder of the checkpoint, `config.output`.

    Raises:
        DataError: captions that cannot be read.
        VLMError: a loss that is no longer a number.
    """
    accelerator = Accelerator()
    console = Console(stderr=True, quiet=not accelerator.is_main_process)
    samples = read_sources(config.data)
    held_out = read_sources(config.validation) if config.validation else []
    set_seed(config.seed)
    model = vlm.build(config.model, device=accelerator.device)
    trainable = freeze_all_but_projector(model, console)
    features = FeatureCache(
        model.vision,
        config.model.vision,
        [sample.photo.image for sample in samples + held_out],
        config.features or cache_dir() / "features",
        accelerator.device,
    )
    optimizer = torch.optim.AdamW(
        parameter_groups(trainable, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.95)
    )
    rank, world = accelerator.process_index, accelerator.num_processes
    passes = len(epoch_batches(len(samples), config.batch_size, 0, 0, rank, world))
    steps = config.epochs * -(-passes // config.accumulate)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(config.warmup * steps), steps)
    network = accelerator.prepare_model(model)
    optimizer = accelerator.prepare_optimizer(optimizer)
    log = open_log(config) if accelerator.is_main_process else None
    best = float("inf")
    step = 0
    with progress(console) as bar:
        task = bar.add_task("align", total=steps, status="")
        for epoch in range(config.epochs):
            rows = CaptionRows(model, features, samples, config.seed, epoch)
            loader = iter(rows.loader(config.batch_size, config.workers, rank, world))
            began = perf_counter()
            while batches := list(islice(loader, config.accumulate)):
                loss, tokens = train_step(accelerator, network, optimizer, batches, config.clip)
                schedule.step()
                step += 1
                if not torch.isfinite(torch.tensor(loss)):
                    raise VLMError(f"the loss is {loss} at step {step}: lower learning_rate")
                rate, began = tokens / (perf_counter() - began), perf_counter()
                bar.update(task, advance=1, status=f"loss {loss:.3f}  {rate:,.0f} tokens/s")
                if log:
                    row = {"step": step, "epoch": epoch, "loss": loss, "tokens_per_second": rate}
                    log.write(json.dumps(row | {"learning_rate": schedule.get_last_lr()[0]}) + "\n")
            if held_out:
                loss = validate(accelerator, model, features, held_out, config)
                console.print(f"epoch {epoch + 1}: validation loss {loss:.4f}")
                if log:
                    log.write(json.dumps({"step": step, "validation_loss": loss}) + "\n")
            if log:
                log.flush()
                if not held_out or loss < best:
                    best = loss
                    model.save(config.output / "checkpoint")
            accelerator.wait_for_everyone()
    accelerator.end_training()
    return config.output / "checkpoint"


def freeze_all_but_projector(
    model: vlm.VisionLanguageModel, console: Console
) -> list[tuple[str, nn.Parameter]]:
    """Freezes everything but the projector and says so; gives what trains, by name."""
    table = Table("module", "parameters", "trains", "dtype")
    for name, module in model.named_children():
        module.requires_grad_(name == "projector")
        parameters = list(module.parameters())
        count = sum(parameter.numel() for parameter in parameters)
        dtype = str(parameters[0].dtype).removeprefix("torch.")
        table.add_row(name, f"{count:,}", "yes" if name == "projector" else "no", dtype)
    console.print(table)
    return list(model.projector.named_parameters())


def parameter_groups(
    named: list[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, object]]:
    """Weight decay for matrices alone: on biases, norms and queries it only pulls towards zero."""
    matrices = [p for name, p in named if p.ndim > 1 and not name.endswith("queries")]
    others = [p for name, p in named if p.ndim <= 1 or name.endswith("queries")]
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
    counts = torch.tensor(
        sum(len(batch.target_ids) for batch in batches), device=accelerator.device
    )
    tokens = int(accelerator.reduce(counts, "sum"))
    total = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches, start=1):
        context = network if number == len(batches) else None
        if context is None:
            with accelerator.no_sync(network):
                total += backward(accelerator, network, batch, tokens)
        else:
            total += backward(accelerator, network, batch, tokens)
    accelerator.clip_grad_norm_([p for p in network.parameters() if p.requires_grad], clip)
    optimizer.step()
    optimizer.zero_grad()
    return float(accelerator.reduce(total, "sum")) / tokens, tokens


def backward(accelerator: Accelerator, network: nn.Module, batch: Batch, tokens: int) -> Tensor:
    """Adds one batch's share of the gradient; gives its summed loss."""
    loss = network(batch.to(accelerator.device))
    # Processes are averaged by DDP, but each token is to weigh 1 / tokens.
    accelerator.backward(loss * (accelerator.num_processes / tokens))
    return loss.detach()


@torch.no_grad()
def validate(
    accelerator: Accelerator,
    model: vlm.VisionLanguageModel,
    features: FeatureCache,
    samples: list[CaptionSample],
    config: AlignConfig,
) -> float:
    """Mean loss of a token of held-out captions, over all processes."""
    total = torch.zeros(2, device=accelerator.device)
    rank, world = accelerator.process_index, accelerator.num_processes
    rows = CaptionRows(model, features, samples, config.seed, epoch=0)
    for batch in rows.loader(config.batch_size, config.workers, rank, world):
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


def open_log(config: AlignConfig):
    """`metrics.jsonl` in the run's folder, beside the config it ran with."""
    config.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(config), indent=2, default=str)
    (config.output / "config.json").write_text(text + "\n", encoding="utf-8")
    return (config.output / "metrics.jsonl").open("w", encoding="utf-8")

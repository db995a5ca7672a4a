"""This project's way: `vlm train`, timed by its own log, as it is and with less."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from json import loads
from pathlib import Path
from statistics import mean, median
from types import ModuleType
from typing import Any
from unittest.mock import patch

from made_up import QUESTION
from measured import Filled, Measured, peak_memory, workers
from rich.console import Console
from settings import CAPTIONS, Setting
from torch import Tensor
from transformers import PreTrainedModel

import train.loop
import train.malloc
import train.order
import train.run
from train.batch import Batch
from train.config import TrainConfig
from train.features import FeatureCache
from train.flops import model_flops
from train.freeze import freeze
from train.loss import cross_entropy
from train.mask import block_mask
from train.run import build, start
from train.run import train as run
from vlm.config import ModelConfig
from vlm.data.read import read_sources
from vlm.data.source import DataSource

RECIPE = "this recipe"


def loss_from_all_logits(model: PreTrainedModel, embeddings: Tensor, batch: Batch) -> Tensor:
    """What `train.loss.target_loss` gives, from logits at every position."""
    mask = batch.attention_mask
    if batch.blocks is not None:
        mask = block_mask(batch.blocks, batch.position_ids, model, embeddings.dtype)
    logits = model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).logits
    return cross_entropy(
        logits.float()[batch.target_rows, batch.target_positions], batch.target_ids
    )


@dataclass(frozen=True)
class Variant:
    """A way to run the recipe: fields of the `TrainConfig`, and what has no setting, since nobody
    should want it otherwise, replaced: module, name, and what stands there instead."""

    config: dict[str, Any] = field(default_factory=dict)
    replaced: tuple[tuple[ModuleType, str, Any], ...] = ()


NO_GROUPING = (train.order, "POOL", 1)
ALL_LOGITS = (train.loop, "target_loss", loss_from_all_logits)
NO_KEEPING = (train.malloc, "keep_freed_memory", lambda: None)
NO_ONEDNN = (train.run, "uses_onednn", lambda *_: False)

VARIANTS = {
    RECIPE: Variant(),
    "without shared-image packing": Variant({"pack": "none"}),
    "without the feature cache": Variant({"cache": "off"}),
    "without length grouping": Variant(replaced=(NO_GROUPING,)),
    "with logits at all positions": Variant(replaced=(ALL_LOGITS,)),
    "without oneDNN": Variant(replaced=(NO_ONEDNN,)),
    "without keeping freed memory": Variant(replaced=(NO_KEEPING,)),
    "all six switched off": Variant(
        {"pack": "none", "cache": "off"}, (NO_GROUPING, ALL_LOGITS, NO_ONEDNN, NO_KEEPING)
    ),
    "with sequence packing": Variant({"pack": "sequence"}),
}


def config_of(setting: Setting, folder: Path, name: str) -> TrainConfig:
    """Stage 1, as `vlm train` would be given it."""
    config = TrainConfig(
        data=[DataSource(str(folder / "captions.jsonl"), questions=[QUESTION])],
        model=ModelConfig(llava=str(folder / "llava")),
        output=folder / "runs" / name,
        batch_size=setting.photos,
        max_steps=setting.total_steps,
        workers=workers(),
        trackers=[],
        **{"cache": "on", "cache_folder": folder / "features"} | VARIANTS[name].config,
    )
    config.resolve()
    return config


def fill(setting: Setting, folder: Path) -> Filled:
    """Encodes the photos, for all runs that follow."""
    train.malloc.keep_freed_memory()
    config = config_of(setting, folder, RECIPE)
    accelerator = start(config)
    console = Console(stderr=True)
    model, *_ = build(config, accelerator)
    freeze(model, config, console)
    cache = FeatureCache(config.cache_folder, model.vision, model.config.vision, 10**12)
    photos = [sample.photos[0] for each in read_sources(config.data) for sample in each.usable]
    report = cache.fill(photos, accelerator.device, console)
    return Filled(report.rate, peak_memory(), model_flops(model, encoded=False))


def time_recipe(setting: Setting, folder: Path, name: str) -> Measured:
    """Runs a variant, as the `vlm` command would; the features it needs are there."""
    config = config_of(setting, folder, name)
    with replaced(VARIANTS[name]):
        run(config)
    lines = (config.output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(loads, lines) if "loss" in row]
    timed = rows[setting.warm_up :]
    seconds = median(row["seconds"] for row in timed)
    return Measured(
        captions=setting.photos * CAPTIONS / seconds,
        tokens=mean(row["tokens"] for row in timed) / seconds,
        memory=peak_memory(),
        loss=mean(row["loss"] for row in rows),
        mfu=median(row["mfu"] for row in timed) if "mfu" in timed[0] else None,
    )


@contextmanager
def replaced(variant: Variant) -> Iterator[None]:
    """Within, what a variant replaces is replaced."""
    with ExitStack() as stack:
        for module, name, value in variant.replaced:
            stack.enter_context(patch.object(module, name, value))
        yield

"""This project's way: `vlm train`, timed by its own log, as it is and with less."""

from contextlib import ExitStack
from pathlib import Path
from statistics import mean, median
from unittest.mock import patch

from made_up import QUESTION, write
from measured import Filled, Measured, peak_memory, workers
from rich.console import Console
from settings import CAPTIONS, Setting
from torch import Tensor
from transformers import PreTrainedModel

import train.malloc
import train.model
import train.order
import train.run
from train.batch import Batch
from train.config import TrainConfig
from train.features import FeatureCache
from train.flops import model_flops
from train.freeze import freeze
from train.frozen_llama import FrozenLlama
from train.log import METRICS, read_log
from train.loss import cross_entropy
from train.mask import block_mask
from vlm.config import ModelConfig
from vlm.data.read import read_sources
from vlm.data.source import DataSource

RECIPE = "this recipe"


def loss_from_all_logits(
    model: PreTrainedModel, embeddings: Tensor, batch: Batch, layers: FrozenLlama | None = None
) -> Tensor:
    """What `train.loss.target_loss` gives, from logits at every position, of transformers' model
    whatever the `layers`."""
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


# What has no setting, since nobody should want it otherwise: what stands there instead.
NO_GROUPING = (train.order, "POOL", 1)
ALL_LOGITS = (train.model, "target_loss", loss_from_all_logits)
NO_KEEPING = (train.malloc, "keep_freed_memory", lambda: None)
NO_LAYERS = (train.run, "is_frozen_llama", lambda _: False)

VARIANTS = {
    RECIPE: ({}, ()),
    "without shared-image packing": ({"pack": "none"}, ()),
    "without the feature cache": ({"cache": "off"}, ()),
    "without length grouping": ({}, (NO_GROUPING,)),
    "with logits at all positions": ({}, (ALL_LOGITS,)),
    "without layers of its own": ({}, (NO_LAYERS,)),
    "without keeping freed memory": ({}, (NO_KEEPING,)),
    "all six switched off": (
        {"pack": "none", "cache": "off"},
        (NO_GROUPING, ALL_LOGITS, NO_LAYERS, NO_KEEPING),
    ),
    "with sequence packing": ({"pack": "sequence"}, ()),
}
"""Ways to run the recipe: fields of the `TrainConfig`, and what is replaced."""


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
        **{"cache": "on", "cache_folder": folder / "features"} | VARIANTS[name][0],
    )
    config.resolve()
    return config


def prepare(setting: Setting, folder: Path) -> Filled:
    """Writes what is trained on, and fills the feature cache, for all runs that follow."""
    write(setting, folder)
    train.malloc.keep_freed_memory()
    config = config_of(setting, folder, RECIPE)
    accelerator = train.run.start(config)
    console = Console(stderr=True)
    model, *_ = train.run.build(config, accelerator)
    freeze(model, config, console)
    cache = FeatureCache(config.cache_folder, model.vision, model.config.vision, 10**12)
    photos = [sample.photos[0] for each in read_sources(config.data) for sample in each.usable]
    report = cache.fill(photos, accelerator.device, console)
    return Filled(report.rate, peak_memory(), model_flops(model, encoded=False))


def time_recipe(setting: Setting, folder: Path, name: str) -> Measured:
    """Runs a variant, as the `vlm` command would; the features it needs are there."""
    config = config_of(setting, folder, name)
    with ExitStack() as stack:
        for replaced in VARIANTS[name][1]:
            stack.enter_context(patch.object(*replaced))
        train.run.train(config)
    rows = [row for row in read_log(config.output / METRICS) if "loss" in row]
    timed = rows[setting.warm_up :]
    seconds = median(row["seconds"] for row in timed)
    return Measured(
        captions=setting.photos * CAPTIONS / seconds,
        tokens=mean(row["tokens"] for row in timed) / seconds,
        memory=peak_memory(),
        loss=mean(row["loss"] for row in rows),
        precision=config.precision,
        mfu=median(row["mfu"] for row in timed) if "mfu" in timed[0] else None,
    )

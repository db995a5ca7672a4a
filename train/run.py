"""`vlm train`: puts one run together - data, model, what trains, features, processes - and runs
it."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    broadcast_object_list,
    gather_object,
    set_seed,
)
from peft.helpers import disable_input_dtype_casting
from rich.console import Console

import vlm
from train import malloc
from train.clip import train_clip
from train.config import TrainConfig
from train.ema import WeightAverage
from train.epochs import Epochs, report_file, size_of
from train.features import FeatureCache, together
from train.flops import model_flops, peak_flops
from train.freeze import freeze
from train.frozen_llama import FrozenLlama, is_frozen_llama
from train.loader import CUT
from train.log import METRICS, RunLog, read_log
from train.mask import attention_for
from train.model import ModelRun
from train.plot import plot
from train.resume import TrainingState, begin, state_to_resume
from train.rewards import self_critical
from train.run_json import fingerprint
from train.start import start
from vlm.checkpoint import load_tensors, read
from vlm.config import LanguageConfig, LoraConfig, ModelConfig, VisionConfig
from vlm.data.read import read_sources
from vlm.data.sample import Samples, Skipped, by_reason, counted
from vlm.data.skipped import check_share, read_report, write_report
from vlm.errors import ConfigError, DataError

MEASURED = 64
"""Photos by which the tower's speed is measured."""


def train(config: TrainConfig) -> Path:
    """Train: the projector on captions (stage align), or the whole on instructions (instruct).

    Under `accelerate launch` or `torchrun`, on every process that starts. Gives the folder of the
    checkpoint; whatever ends it before is a VLMError.
    """
    if config.stage == "contrast":
        return train_clip(config)
    malloc.keep_freed_memory()
    config.resolve()
    asked = config.precision
    accelerator = start(config)
    main = accelerator.is_main_process
    console = Console(stderr=True, quiet=not main, soft_wrap=True, highlight=False)
    if asked == "auto":
        console.print(f"computes in {config.precision} on {accelerator.device.type}")
    sources, validation = read_sources(config.data), read_sources(config.validation or [])
    data = fingerprint([each.usable for each in (*sources, *validation)])
    resumed = state_to_resume(config, data, accelerator, console)
    skipped = check_usable([*sources, *validation], config, console, main, bool(resumed))

    set_seed(config.seed)
    model, groups = build_to_train(config, accelerator, console)
    rewards = self_critical(model, accelerator, sources)
    epochs = Epochs(config, model, accelerator, sources, validation, skipped)
    epochs.features = cached(config, epochs, model, accelerator, console)
    flops = model_flops(model, encoded=epochs.features is not None and not config.augments)
    layers = speed_up(model, config, accelerator)
    network, optimizer = prepare(model, groups, config, accelerator)
    # From here on, what is drawn is drawn by each process for itself.
    set_seed(config.seed, device_specific=True)

    average = WeightAverage(model, config.ema)
    state = TrainingState(accelerator, model, network, optimizer, average, data)
    # What an image costs is known at the tower's own size.
    peak = None if config.image_sizes else peak_flops(accelerator.device)
    total = epochs.total_steps
    begin(state, config, resumed, total, console)
    log = RunLog(config.output, accelerator, console, total, state.at.step, peak, config.trackers)
    # Autocast brings each input to the right precision; peft would bring it to float32 before.
    lower = accelerator.mixed_precision != "no"
    with disable_input_dtype_casting(model.language.model, active=lower), log:
        ModelRun(config, state, epochs, log, flops, rewards, layers).train()
    if main:
        plot(config.output / METRICS, config.output / "loss.png")
        steps = [row for row in read_log(config.output / METRICS) if row.get("epoch") == 0]
        if cut := sum(row["cut"] for row in steps):
            console.print(f"dropped from samples: {cut:,} {CUT}, in the first epoch")
        if skipped := read_report(report_file(config)):
            console.print(f"skipped: {by_reason(skipped)}; see {report_file(config)}")
        console.print(f"vlm chat PHOTO --model {config.output / 'checkpoint'}: talks to it")
    return config.output / "checkpoint"


def check_usable(
    sources: list[Samples], config: TrainConfig, console: Console, main: bool, resumed: bool
) -> list[Skipped]:
    """Reports the samples that cannot be used, those that a resumed run has found among them."""
    skipped, file = [one for found in sources for one in found.skipped], report_file(config)
    if resumed:
        read = {one.where for one in skipped}
        skipped += [one for one in read_report(file) if one.where not in read]
    if main:
        write_report(skipped, file)
    check_share(skipped, size_of(sources), config.allowed_unusable, file)
    if skipped:
        console.print(f"skipped: {by_reason(skipped)} of {size_of(sources):,} samples; see {file}")
    if dropped := sum((found.dropped for found in sources), Counter()):
        console.print(f"dropped from samples: {counted(dropped)}")
    return skipped


def build_to_train(
    config: TrainConfig, accelerator: Accelerator, console: Console
) -> tuple[vlm.VisionLanguageModel, list[dict[str, Any]]]:
    """The model with its first weights, all but what trains frozen, and AdamW's groups."""
    model, tensors, required = build(config, accelerator)
    groups = freeze(model, config, console)
    if tensors is not None:
        # Only now that what trains is float32: in the others' dtype, it would be rounded.
        load_tensors(model, tensors, required)
    if config.gradient_checkpointing:
        model.language.checkpoint_gradients()
    return model, groups


def build(
    config: TrainConfig, accelerator: Accelerator
) -> tuple[vlm.VisionLanguageModel, Path | None, set[str]]:
    """The model that trains, made as the config says or as the checkpoint to start from; the
    tensors to start from, not yet in it; the names that must be among them."""
    # FSDP shards what has one dtype; it computes in the lower precision all the same.
    sharded = accelerator.distributed_type == DistributedType.FSDP
    whole = sharded or accelerator.mixed_precision == "no"
    dtype = torch.float32 if whole else None
    if not whole and accelerator.mixed_precision == "bf16":
        # Frozen weights that are kept in it need not be brought to it in each step.
        dtype = torch.bfloat16
    asked, tensors, has_adapters = config.model, None, True
    if config.start is not None:
        made_of, tensors = read(config.start)
        language = LanguageConfig(lora=asked.language.lora, load_in=asked.language.load_in)
        vision = VisionConfig(image_size=asked.vision.image_size)
        if asked not in (ModelConfig(vision, language=language), made_of):
            raise ConfigError(
                f"start={config.start} says what the model is made of: leave out model, but for "
                "model.vision.image_size, model.language.lora and model.language.load_in"
            )
        has_adapters = made_of.language.lora is not None
        language = replace(
            made_of.language,
            lora=adapters(config, made_of.language.lora),
            load_in=asked.language.load_in or made_of.language.load_in,
        )
        size = asked.vision.image_size or made_of.vision.image_size
        asked = replace(made_of, vision=replace(made_of.vision, image_size=size), language=language)
    model = vlm.build(asked, accelerator.device, dtype)
    required = {name for name in model.trained if has_adapters or ".lora_" not in name}
    return model, tensors, required


def adapters(config: TrainConfig, there: LoraConfig | None) -> LoraConfig | None:
    """The adapters of a model that starts from a checkpoint: those that are there, with the dropout
    that this run asks for; without any, those that it asks for."""
    asked = config.model.language.lora
    if asked is None:
        return there or (LoraConfig() if config.trains.adapts else None)
    if there is not None and asked != replace(there, dropout=asked.dropout):
        settings = ", ".join(f"{name} {value}" for name, value in asdict(there).items())
        raise ConfigError(
            f"start={config.start} has adapters ({settings}): model.language.lora can give them "
            "another dropout and nothing else"
        )
    return asked


def cached(
    config: TrainConfig,
    epochs: Epochs,
    model: vlm.VisionLanguageModel,
    accelerator: Accelerator,
    console: Console,
) -> FeatureCache | None:
    """The frozen tower's features of the photos of a run, if they are worth their place. The config
    then has what was decided: a run must not be resumed with features that are rounded otherwise.

    Raises:
        DataError: a cache folder of another tower, a disk that refuses, or `cache: on` without room
            for all of them.
        ConfigError: `cache: on` for photos in tiles.
    """
    if model.vision.tiles:
        if config.cache == "on":
            raise ConfigError(
                "cache=on holds one square of each photo, not tiles: leave cache out, or "
                "model.vision.tiles"
            )
        console.print("no vision features are cached: photos are cut into tiles")
        return None
    photos, passes = epochs.to_encode()
    if not photos or config.trains.vision_layers != 0 or config.cache == "off":
        return None
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}[config.cache_dtype]
    cache = FeatureCache(
        config.cache_folder, model.vision, model.config.vision, int(config.cache_gb * 1e9), dtype
    )
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    demanded = config.cache == "on"
    decided: list[bool | None] = [None]
    if accelerator.is_main_process:
        # The first few are encoded in any case: they tell what all of them cost.
        rate = cache.fill(photos[:MEASURED], device, console).rate
        decided[0], reason = cache.decide(config.cache, photos, passes, rate)
        console.print(reason)
    # Each process on its own might see another one filling, and decide otherwise.
    config.cache = "on" if broadcast_object_list(decided)[0] else "off"
    if config.cache == "off":
        return None
    report = together(gather_object([cache.fill(photos, device, console, rank, world)]))
    console.print(str(report))
    if not report.left_out:
        return cache
    if demanded:
        raise DataError(
            f"cache=on, and the features of {report.left_out:,} photos have no room in the "
            f"{config.cache_gb:g} GB of cache_gb: make it more, or choose cache=auto"
        )
    console.print("not all features have room: the tower runs in every step (see cache_gb)")
    config.cache = "off"
    return None


def speed_up(
    model: vlm.VisionLanguageModel, config: TrainConfig, accelerator: Accelerator
) -> FrozenLlama | None:
    """The fastest exact attention for this run's rows, see `attention_for`; layers of our own where
    the language model has that shape, is frozen and on a CPU."""
    language, dtype = model.language.model, computed_in(accelerator)
    packed = config.pack != "none" or config.self_critical
    kind = attention_for(language, dtype, packed, long=config.pack == "sequence")
    language.set_attn_implementation(kind)
    if config.compile:
        # The layers: the loss calls the output head by itself.
        language.base_model.compile(dynamic=True)
        return None
    whole = accelerator.distributed_type != DistributedType.FSDP and dtype == language.dtype
    if model.device.type == "cpu" and whole and not config.gradient_checkpointing:
        return FrozenLlama(language) if is_frozen_llama(language) else None
    return None


def computed_in(accelerator: Accelerator) -> torch.dtype:
    """What products are computed in, whatever the tensors are kept in."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return dtypes.get(accelerator.mixed_precision, torch.float32)


def prepare(
    model: vlm.VisionLanguageModel,
    groups: list[dict[str, Any]],
    config: TrainConfig,
    accelerator: Accelerator,
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Model and AdamW as the accelerator's processes need them."""
    for group in groups:
        group["peak"] = group["lr"]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, config.beta2))
    if accelerator.distributed_type == DistributedType.FSDP:
        for name in ("ema", "self_critical"):
            if getattr(config, name):
                raise ConfigError(f"{name} needs whole weights: leave it out with FSDP")
        # Sharded one by one: accelerate looks for their names where transformers has them.
        parts = {
            name for m in model.modules() for name in getattr(m, "_no_split_modules", None) or ()
        }
        model._no_split_modules = sorted(parts & {type(m).__name__ for m in model.modules()})
    return accelerator.prepare(model, optimizer)

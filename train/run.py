"""`vlm train`: puts one run together - data, model, what trains, features, processes - and runs
it."""

import os
from dataclasses import asdict, replace
from pathlib import Path

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
from train.config import TrainConfig
from train.epochs import Epochs
from train.features import FeatureCache, together
from train.flops import model_flops, peak_flops
from train.freeze import freeze
from train.log import RunLog
from train.loop import SHARDED, Run
from train.mask import attention_for
from train.onednn import through_onednn
from train.plot import plot
from train.rewards import SelfCritical
from train.run_json import describe, differences, fingerprint, resolved, starts
from train.state import newest_state, remove_states, states
from vlm.checkpoint import load_tensors, read
from vlm.config import LanguageConfig, LoraConfig, ModelConfig, check_choices
from vlm.data.read import read_sources
from vlm.data.sample import Samples, by_reason
from vlm.data.skipped import check_share, read_report, write_report
from vlm.errors import ConfigError, DataError

FREE_TO_DIFFER = {
    *("resume", "force", "output", "workers", "trackers", "save_every", "keep", "answer_every"),
    *("cache_folder", "cache_gb", "max_skipped", "allowed_unusable"),
}
"""Settings that a resumed run may have otherwise: they do not change its weights."""

MEASURED = 64
"""Photos by which the tower's speed is measured."""


def train(config: TrainConfig) -> Path:
    """Train: the projector on captions (stage align), or the whole on instructions (instruct).

    Under `accelerate launch` or `torchrun`, on every process that starts.

    Returns:
        The folder of the checkpoint.

    Raises:
        ConfigError: settings that do not fit together, or not to the run that is to go on.
        DataError: data that cannot be used.
        CheckpointError: a checkpoint that cannot be read or written.
        VLMError: a run that was told to end, or whose losses are no longer numbers.
    """
    config.resolve()
    accelerator = start(config)
    console = Console(
        stderr=True, quiet=not accelerator.is_main_process, soft_wrap=True, highlight=False
    )
    sources, held_out = read_sources(config.data), read_sources(config.validation or [])
    data = fingerprint([each.usable for each in (*sources, *held_out)])
    found = state_to_go_on_from(config, data, accelerator, console)
    check_usable([*sources, *held_out], config, accelerator, console, resumed=found is not None)
    set_seed(config.seed)
    model, tensors, required = build(config, accelerator)
    groups = freeze(
        model,
        config.trains,
        config.learning_rate,
        config.projector_learning_rate,
        config.vision_learning_rate,
        config.weight_decay,
        console,
    )
    if tensors is not None:
        # Only now that what trains is float32: in the others' dtype, it would be rounded.
        load_tensors(model, tensors, required)
    if config.gradient_checkpointing:
        model.language.checkpoint_gradients()
    epochs = Epochs(
        config,
        model,
        accelerator,
        sources,
        held_out=[sample for each in held_out for sample in each.usable],
        features=None,
        held_out_features=None,
        fingerprint=data,
    )
    epochs.held_out_features = cached(config, epochs, model, accelerator, console)
    if not config.augments:
        epochs.features = epochs.held_out_features
    flops = model_flops(model, encoded=epochs.features is not None)
    peak = peak_flops(accelerator.device)
    set_attention(model, config, accelerator)
    if uses_onednn(model, config, accelerator):
        through_onednn(model.language.model)
    if config.compile:
        # The layers: the loss calls the output head by itself.
        model.language.model.base_model.compile(dynamic=True)
    network, optimizer = prepare(model, groups, config, accelerator)
    # From here on, what is drawn is drawn by each process for itself.
    set_seed(config.seed, device_specific=True)
    captions = [sample.texts() for sample in epochs.drawn]
    self_critical = SelfCritical(model, captions) if captions else None
    run = Run(config, accelerator, model, network, optimizer, epochs, flops, self_critical)
    if found:
        run.load_state(found)
        console.print(f"going on from step {run.at.step:,} of {epochs.total_steps:,} ({found})")
    if accelerator.is_main_process:
        if not found:
            remove_states(config.output / "state")
        describe(config.output, config, data, accelerator.num_processes, resumed=found is not None)
    # Autocast brings each input to the right precision; peft would bring it to float32 before.
    lower = accelerator.mixed_precision != "no"
    log = RunLog(
        config.output,
        accelerator,
        console,
        epochs.total_steps,
        run.at.step,
        peak,
        config.trackers,
    )
    with disable_input_dtype_casting(model.language.model, active=lower), log:
        run.train(log)
    if accelerator.is_main_process:
        plot(config.output / "metrics.jsonl", config.output / "loss.png")
        if skipped := read_report(epochs.report_file):
            console.print(f"skipped: {by_reason(skipped)}; see {epochs.report_file}")
        console.print(f"{config.output / 'checkpoint'}: vlm chat --model talks to it")
    accelerator.end_training()
    return config.output / "checkpoint"


def start(config: TrainConfig) -> Accelerator:
    """What runs this on one process or many, as the environment says. The config then has the
    precision that it computes in.

    Raises:
        ConfigError: it cannot, such as float16 on a CPU or DeepSpeed that is not installed.
    """
    try:
        accelerator = Accelerator(mixed_precision=precision(config.precision))
    except (ValueError, ImportError) as error:
        raise ConfigError(f"accelerate cannot start: {' '.join(str(error).split())}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # accelerate would compute in float32 without a word.
        raise ConfigError("precision=fp16 needs a GPU: choose bf16 or fp32")
    computed = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    # A run that goes on must not go on in another, whatever the machine or the environment.
    config.precision = computed
    check_choices(config)
    # What the environment says of it would divide the gradient, which is a mean already.
    accelerator.gradient_accumulation_steps = 1
    return accelerator


def precision(asked: str) -> str | None:
    """What accelerate is told to compute in; None leaves it to its own settings."""
    if asked != "auto":
        return "no" if asked == "fp32" else asked
    # `accelerate launch` says "no" where nobody said anything.
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
    if told or not torch.cuda.is_available():
        return None
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def check_usable(
    sources: list[Samples],
    config: TrainConfig,
    accelerator: Accelerator,
    console: Console,
    resumed: bool,
) -> None:
    """Reports what the sources skipped, beside what a run that goes on has found since.

    Raises:
        DataError: more than the config allows.
    """
    skipped = [one for source in sources for one in source.skipped]
    total = len(skipped) + sum(len(source.usable) for source in sources)
    report = config.output / "skipped.jsonl"
    if accelerator.is_main_process and not (resumed and report.exists()):
        write_report(skipped, report)
    check_share(skipped, total, config.allowed_unusable, report)
    if skipped:
        console.print(f"skipped: {by_reason(skipped)} of {total:,} samples; see {report}")


def state_to_go_on_from(
    config: TrainConfig, data: str, accelerator: Accelerator, console: Console
) -> Path | None:
    """The newest whole state of the run in the output folder, if that is to go on.

    Raises:
        ConfigError: a run is there and nothing says what to do with it, or it had another config or
            other data.
        CheckpointError: all its states are damaged.
    """
    root = config.output / "state"
    if config.resume and accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise ConfigError(
            "a run with DeepSpeed leaves no states and cannot be resumed: use FSDP2 "
            "(configs/accelerate/fsdp2.yaml), or start from its checkpoint"
        )
    if not config.resume:
        there = states(root) or (config.output / "checkpoint").exists()
        if there and not config.force:
            raise ConfigError(
                f"{config.output} holds a run already: --resume goes on with it, --force begins "
                "anew, or choose another output"
            )
        # Or the main process might have made one before another one looked.
        accelerator.wait_for_everyone()
        return None
    found = newest_state(root, console)
    before = starts(config.output)[-1:] if found else []
    if before and config.cache == "auto":
        config.cache = before[0]["config"]["cache"]
    if config.force:
        return found
    now = {"config": resolved(config), "data": data}
    now["processes"] = accelerator.num_processes
    for entry in before:
        then = {"config": entry["config"], "data": entry["data"]}
        then["processes"] = entry["hardware"]["processes"]
        free = {f"config.{name}" for name in FREE_TO_DIFFER}
        if changed := differences(then, now, free):
            raise ConfigError(
                f"{config.output} cannot go on as it was, its settings have changed: "
                f"{'; '.join(changed)}; --force goes on all the same"
            )
    return found


def build(
    config: TrainConfig, accelerator: Accelerator
) -> tuple[vlm.VisionLanguageModel, Path | None, set[str]]:
    """The model that trains, made as the config says or as the checkpoint to start from.

    Returns:
        The model, with adapters if they train; the tensors to start from, not yet in it; the names
        that must be among them.

    Raises:
        ConfigError: parts that do not fit together.
        CheckpointError: a checkpoint that cannot be read.
    """
    # FSDP shards what has one dtype; it computes in the lower precision all the same.
    sharded = accelerator.distributed_type == DistributedType.FSDP
    whole = sharded or accelerator.mixed_precision == "no"
    dtype = torch.float32 if whole else None
    asked, tensors, has_adapters = config.model, None, True
    if config.start is not None:
        made_of, tensors = read(config.start)
        language = LanguageConfig(lora=asked.language.lora, load_in=asked.language.load_in)
        if asked not in (ModelConfig(language=language), made_of):
            raise ConfigError(
                f"start={config.start} says what the model is made of: leave out model, but for "
                "model.language.lora and model.language.load_in"
            )
        has_adapters = made_of.language.lora is not None
        language = replace(
            made_of.language,
            lora=adapters(config, made_of.language.lora),
            load_in=asked.language.load_in or made_of.language.load_in,
        )
        asked = replace(made_of, language=language)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # With ZeRO-3, transformers would shard what it reads, and it is needed whole until then.
        accelerator.state.deepspeed_plugin.dschf = None
    model = vlm.build(asked, accelerator.device, dtype)
    required = {name for name in model.trained if has_adapters or ".lora_" not in name}
    return model, tensors, required


def adapters(config: TrainConfig, there: LoraConfig | None) -> LoraConfig | None:
    """The adapters of a model that starts from a checkpoint: those that are there, with the dropout
    that this run asks for; without any, those that it asks for.

    Raises:
        ConfigError: it asks for others than are there.
    """
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
    """The frozen tower's features of the photos of a run, if they are worth their place.

    Raises:
        DataError: a cache folder of another tower, a disk that refuses, or `cache: on` without room
            for all of them.
    """
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
    wanted = broadcast_object_list(decided)[0]
    # A run that goes on must not go on with features that are rounded otherwise.
    config.cache = "on" if wanted else "off"
    if not wanted:
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


def set_attention(
    model: vlm.VisionLanguageModel, config: TrainConfig, accelerator: Accelerator
) -> None:
    """The fastest exact attention for this run's rows, see `attention_for`."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = dtypes.get(accelerator.mixed_precision, torch.float32)
    packed = config.pack != "none" or config.self_critical
    kind = attention_for(model.language.model, dtype, packed, long=config.pack == "sequence")
    model.language.model.set_attn_implementation(kind)


def uses_onednn(
    model: vlm.VisionLanguageModel, config: TrainConfig, accelerator: Accelerator
) -> bool:
    """Whether frozen layers go through oneDNN: on a CPU that has it, in float32, whole and not
    compiled."""
    sharded = accelerator.distributed_type in SHARDED
    plain = not config.compile and not sharded and accelerator.mixed_precision == "no"
    return model.device.type == "cpu" and plain and torch.backends.mkldnn.is_available()


def prepare(
    model: vlm.VisionLanguageModel,
    groups: list[dict],
    config: TrainConfig,
    accelerator: Accelerator,
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Model and AdamW as the accelerator's processes need them.

    Raises:
        ConfigError: more processes than samples in a step, or averages of sharded weights.
    """
    for group in groups:
        group["peak"] = group["lr"]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, config.beta2))
    kind = accelerator.distributed_type
    if kind in SHARDED:
        for name in ("ema", "self_critical"):
            if getattr(config, name):
                raise ConfigError(
                    f"{name} needs whole weights: leave it out with FSDP and DeepSpeed"
                )
    if kind == DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        settings["train_micro_batch_size_per_gpu"] = config.batch_size
        settings["gradient_clipping"] = config.clip
        # It would divide by them what is already a mean over all of a step.
        settings["gradient_accumulation_steps"] = 1
    if kind == DistributedType.FSDP:
        # Sharded one by one: accelerate looks for their names where transformers has them.
        parts = {
            name for m in model.modules() for name in getattr(m, "_no_split_modules", None) or ()
        }
        model._no_split_modules = sorted(parts & {type(m).__name__ for m in model.modules()})
    return accelerator.prepare(model, optimizer)

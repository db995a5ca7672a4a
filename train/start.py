"""Start: what a run computes with - one process or many, a device, a precision."""

import os
from dataclasses import replace

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from train.config import TrainConfig
from train.precision import cpu_dtype
from train.resume import states
from train.run_json import starts
from vlm.errors import ConfigError


def start(config: TrainConfig) -> Accelerator:
    """What runs this on one process or many, as the environment says. The config then has the
    precision that it computes in."""
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise ConfigError(
            "DeepSpeed is not supported: launch with FSDP2 (configs/accelerate/fsdp2.yaml)"
        )
    # Or the processes of a machine without an accelerator would not find one another.
    cpu = not torch.accelerator.is_available()
    try:
        PartialState(cpu=cpu)
        # As the main process has it: another one may be on a machine that would have it otherwise.
        decided = broadcast_object_list([precision(config)])[0]
        accelerator = Accelerator(cpu=cpu, mixed_precision=decided)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"accelerate cannot start: {' '.join(str(error).split())}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # accelerate would compute in float32 without a word.
        raise ConfigError("precision=fp16 needs a GPU: choose bf16 or fp32")
    if accelerator.mixed_precision == "fp8":
        raise ConfigError("accelerate's fp8 is not supported: launch with bf16, fp16 or no")
    computed = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    # A run must not be resumed in another, whatever the machine or the environment.
    config.precision = computed
    if config.workers is None:
        # On a CPU they would take turns with what they prepare for, and each epoch would fork
        # beside torch.distributed's threads, which can leave a worker waiting for ever.
        config.workers = 0 if accelerator.device.type == "cpu" else 2
    # What the environment says of it would divide the gradient, which is a mean already.
    accelerator.gradient_accumulation_steps = 1
    return accelerator


def precision(config: TrainConfig) -> str | None:
    """What accelerate is told to compute in, None to leave it to its own settings, which
    `accelerate launch` makes. A run to resume keeps what it was begun in, whatever is fastest here.
    """
    asked = config.precision
    if asked != "auto":
        return "no" if asked == "fp32" else asked
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        return None
    if config.resume and states(config.output / "state"):
        for entry in starts(config.output)[-1:]:
            return precision(replace(config, precision=entry["config"]["precision"]))
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    on_cpu = not torch.accelerator.is_available()
    return "bf16" if on_cpu and cpu_dtype() == torch.bfloat16 else None

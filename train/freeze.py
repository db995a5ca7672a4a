"""What trains: the one place that freezes, keeps what trains in float32 and sets learning rates."""

from collections import Counter
from collections.abc import Set
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from train.config import TrainConfig, Trains
from vlm.errors import ConfigError
from vlm.model import VisionLanguageModel

PARTS = {
    "vision": "vision tower",
    "projector": "projector",
    "language": "language model",
    "adapters": "LoRA adapters",
}
"""What a parameter can be part of, and how the table calls it."""


def freeze(
    model: VisionLanguageModel, config: TrainConfig, console: Console
) -> list[dict[str, Any]]:
    """Freezes all but what trains, and prints a table of both; gives AdamW's parameter groups.

    What trains becomes float32, whatever it was: half precision loses small updates (bfloat16) and
    AdamW's squared gradients (float16). What is frozen keeps its dtype, so the two go together
    under autocast. The names of what trains are added to `model.trained`.

    Biases, norms and learned inputs (a resampler's queries, a tower's positions, words' embeddings)
    have no weight decay: it would only pull them towards zero.
    """
    check(model, config.trains)
    set_trained(model, config.trains)
    rates = dict.fromkeys(PARTS, config.learning_rate)
    rates["projector"] = config.projector_learning_rate or config.learning_rate
    rates["vision"] = config.vision_learning_rate or config.learning_rate
    members: dict[str, dict[str, nn.Parameter]] = {part: {} for part in PARTS}
    for name, parameter in model.named_parameters():
        part = "adapters" if ".lora_" in name else name.split(".")[0]
        members[part][name] = parameter
    console.print(table_of(members, rates))
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    return [
        group
        for part, parameters in members.items()
        for group in parameter_groups(
            part, parameters, rates[part], config.weight_decay, embeddings
        )
    ]


def set_trained(model: VisionLanguageModel, trains: Trains) -> None:
    """Has what trains require gradients, in float32, and nothing else."""
    model.requires_grad_(False)
    if trains.vision_layers == "all":
        # With the norm that stands behind the last layer: it does not train, but it runs, and on
        # the CPU one of half precision would refuse what float32 layers give.
        model.vision.float()
    if trains.vision_layers != 0:
        for module in model.vision.last_layers(trains.vision_layers):
            module.float().requires_grad_()
    if trains.projector:
        model.projector.float().requires_grad_()
    if trains.language == "full":
        model.language.float().requires_grad_()
    elif trains.adapts:
        for name, parameter in model.language.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_()
    model.trained |= {name for name, value in model.named_parameters() if value.requires_grad}


def check(model: VisionLanguageModel, trains: Trains) -> None:
    """Checks that a model has what is to train, in a form that trains."""
    language, way = model.config.language, trains.language
    wrong = None
    if way == "full" and language.load_in:
        wrong = (
            f"cannot train {language.load_in} weights: leave out model.language.load_in, start "
            "from a checkpoint without it, or choose qlora"
        )
    elif way == "full" and language.lora:
        wrong = "trains the weights themselves: leave out model.language.lora"
    elif way == "qlora" and language.load_in != "4bit":
        wrong = f"needs model.language.load_in=4bit, not {language.load_in}"
    elif trains.adapts and language.lora is None:
        wrong = "needs adapters: set model.language.lora"
    if wrong:
        raise ConfigError(f"trains.language={way} {wrong}")
    if trains.adapts and any(getattr(m, "merged", False) for m in model.language.modules()):
        raise ConfigError(
            "adapters that are merged into the weights cannot train: make the model with "
            "vlm.build and read the checkpoint with vlm.checkpoint.load_tensors"
        )


def parameter_groups(
    part: str,
    parameters: dict[str, nn.Parameter],
    learning_rate: float,
    weight_decay: float,
    embeddings: Set[nn.Parameter],
) -> list[dict[str, Any]]:
    """What trains of a part, as one group with weight decay and one without; no empty ones."""
    matrices, others = [], []
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            is_matrix = parameter.ndim > 1 and name.endswith(".weight")
            decays = is_matrix and parameter not in embeddings
            (matrices if decays else others).append(parameter)
    groups = [
        {"name": part, "params": matrices, "weight_decay": weight_decay},
        {"name": f"{part}, no decay", "params": others, "weight_decay": 0.0},
    ]
    return [group | {"lr": learning_rate} for group in groups if group["params"]]


def table_of(members: dict[str, dict[str, nn.Parameter]], rates: dict[str, float]) -> Table:
    """The parameters of each part that has any, at their learning rates."""
    table = Table("module", "dtype")
    for title in ("trainable", "frozen", "learning rate"):
        table.add_column(title, justify="right")
    for part, parameters in members.items():
        counts, dtypes = Counter(), set()
        for parameter in parameters.values():
            size, dtype = stored(parameter)
            counts[parameter.requires_grad] += size
            dtypes.add(dtype)
        if parameters:
            rate = f"{rates[part]:g}" if counts[True] else ""
            told = ", ".join(sorted(dtypes))
            table.add_row(PARTS[part], told, f"{counts[True]:,}", f"{counts[False]:,}", rate)
    return table


def stored(parameter: nn.Parameter) -> tuple[int, str]:
    """Weights in a parameter, and their dtype, such as `float32`, or `nf4` where bitsandbytes has
    packed two of 4 bits into one byte."""
    packed = getattr(parameter, "quant_state", None)
    if packed is not None:
        return packed.shape.numel(), packed.quant_type
    return parameter.numel(), str(parameter.dtype).removeprefix("torch.")

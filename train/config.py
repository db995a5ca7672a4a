"""Every setting of a training run. The typed config is the command line and the YAML file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vlm.config import ClipConfig, LoraConfig, ModelConfig
from vlm.data.formats import require_there
from vlm.data.source import DataSource
from vlm.errors import ConfigError, UsageError

RANGES: dict[str, tuple[Callable[[float], bool], tuple[str, ...]]] = {
    "at least 1": (
        lambda value: value >= 1,
        (
            *("epochs", "max_steps", "batch_size", "accumulate", "row_length", "max_length"),
            *("keep", "save_every", "validate_every", "answer_every"),
        ),
    ),
    "at least 0": (lambda value: value >= 0, ("weight_decay", "max_skipped", "workers")),
    "above 0": (
        lambda value: value > 0,
        ("learning_rate", "projector_learning_rate", "vision_learning_rate", "clip", "cache_gb"),
    ),
    "from 0 to 1": (lambda value: 0 <= value <= 1, ("warmup", "allowed_unusable")),
    "between 0 and 1": (lambda value: 0 < value < 1, ("ema", "beta2")),
    "from 0 to 2**32 - 1": (lambda value: 0 <= value < 2**32, ("seed",)),
}
"""What numbers must be, and which settings; None is always allowed."""


@dataclass
class Trains:
    """Which parts of the model train.

    Args:
        projector: the projector.
        language: of the language model nothing (`frozen`), low-rank adapters (`lora`), low-rank
            adapters on 4-bit weights (`qlora`), or everything (`full`).
        vision_layers: of the vision tower the last so many layers, or `all`.
    """

    projector: bool = True
    language: Literal["frozen", "lora", "qlora", "full"] = "frozen"
    vision_layers: int | Literal["all"] = 0

    def __post_init__(self) -> None:
        layers = self.vision_layers
        if layers != "all" and not (isinstance(layers, int) and layers >= 0):
            raise ConfigError(f"trains.vision_layers must be 0 or more, or all, not {layers!r}")
        if not self.projector and self.language == "frozen" and layers == 0:
            raise ConfigError("nothing trains: choose trains.projector, language or vision_layers")

    @property
    def adapts(self) -> bool:
        """Whether it is adapters that train, not the language model itself."""
        return self.language in ("lora", "qlora")


@dataclass
class ContrastConfig:
    """Contrastive training of a CLIP.

    Args:
        model: what it is made of.
        views: of each photo: itself, and random parts of it, every other one mirrored. The frozen
            stem's features of all of them are kept on disk; which one is seen is drawn.
        texts: of each photo in one step, drawn among those that are right for it; one for
            `softmax`.
        at_once: photos, and texts, whose activations are in memory at the same time; the batch may
            be larger (gradient caching). None is all.
    """

    model: ClipConfig = field(default_factory=ClipConfig)
    views: int = 4
    texts: int = 1
    at_once: int | None = None

    def __post_init__(self) -> None:
        for name in ("views", "texts", "at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"contrast.{name} must be at least 1, not {value}")
        if self.model.activation == "softmax" and self.texts > 1:
            raise ConfigError(
                "contrast.texts must be 1 with contrast.model.activation softmax, which pairs each "
                "photo with one text: choose sigmoid for several"
            )


NOT_OF_CONTRAST = (
    *("model", "start", "trains", "accumulate", "projector_learning_rate", "vision_learning_rate"),
    *("gradient_checkpointing", "compile", "image_sizes", "pack", "row_length", "max_length"),
    *("cache", "cache_dtype", "answer_every"),
)
"""Settings that contrastive training has no use for."""


@dataclass
class TrainConfig:
    """One stage of training.

    Args:
        data: what is trained on.
        stage: `align`, the projector alone on captions, or `instruct`, projector and language model
            on conversations, which set what is left out: `trains` and `learning_rate`; or
            `contrast`, a CLIP instead, on captions and COCO's boxes.
        validation: whose loss is measured, in stage `contrast` retrieval and zero-shot accuracy;
            the best checkpoint is kept. None keeps the last.
        model: what is trained.
        contrast: of stage `contrast`, what is trained and how.
        start: checkpoint whose trained tensors it starts from, a folder or `embedded`; perhaps at
            another `model.vision.image_size`, run by run from few pixels to many. None is a fresh
            projector.
        trains: which parts train; None is the projector (`align`), or the projector and LoRA on the
            language model (`instruct`).
        output: folder of the run: states to resume from, checkpoint, logs, what it ran on.
        resume: resume from the newest whole state in `output`, if there is one.
        force: resume although the config or the data have changed, or begin anew in a folder that
            holds a run.
        epochs: passes over the data.
        max_steps: changes of the weights after which it ends, if the epochs have more; the schedule
            ends there too. None is all of the epochs.
        batch_size: samples in one forward pass of one process.
        accumulate: forward passes of each process before the weights change.
        learning_rate: peak of the cosine schedule; None is 1e-3 for `align` and `contrast`, and for
            `instruct` 2e-4 with LoRA and 2e-5 without (LLaVA-1.5's).
        projector_learning_rate: of the projector; None is the same.
        vision_learning_rate: of the vision tower's layers that train; None is the same.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: of AdamW, on matrices; biases and norms have none.
        beta2: of AdamW, the decay of its mean of squared gradients.
        clip: largest norm of the gradient.
        max_skipped: steps that are skipped, since loss or gradient was not a number, before the run
            gives up.
        ema: decay of a running average of the trained weights, which is then validated and kept;
            None is none.
        seed: of initialisation, shuffle, questions and augmentation.
        precision: what is computed in; what trains is kept in float32 all the same. `auto` is what
            `accelerate launch` is told, else bfloat16 on CUDA (float16 where the GPU has none) and
            on a CPU with instructions for it, else float32.
        gradient_checkpointing: compute the language model's activations again in the backward pass
            instead of keeping them.
        compile: the language model, through torch.compile.
        image_sizes: sides of the photos in pixels, of which each batch has one, drawn, so that the
            model works at all of them; validation has the tower's own, as has all for None.
        pack: `image` puts all conversations about a photo behind one copy of its tokens;
            `sequence` also puts several photos into one row; `none` is a row for each conversation.
        row_length: tokens of one row with `sequence`.
        max_length: tokens of one conversation: its text is shortened to fit, its images never. None
            is as many as the language model has positions, at most 2,048.
        allowed_unusable: share of the samples, held-out ones too, that may be unusable.
        cache: the frozen tower's features on disk: `on`, `off`, or `auto`, which weighs epochs and
            disk. Never for photos that are augmented or when the tower trains.
        cache_folder: where; None is this project's cache.
        cache_gb: most disk that the features of one tower may take.
        cache_dtype: of the features on the disk; bfloat16 where they go beyond float16's range.
        workers: processes that prepare the batches of each training process; None is 2 beside an
            accelerator, and none on a CPU, whose cores are busy.
        save_every: changes of the weights between two states to resume from.
        keep: states kept, the newest.
        validate_every: changes of the weights between two validations, besides the one at the end
            of each epoch; None is none.
        answer_every: changes of the weights between two looks at answers to a few samples, of
            `validation` if there are any, besides the one at the end of each epoch; None is none.
        trackers: accelerate's, by name; None is TensorBoard if it is installed.
    """

    data: list[DataSource]
    stage: Literal["align", "instruct", "contrast"] = "align"
    validation: list[DataSource] | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    contrast: ContrastConfig | None = None
    start: str | None = None
    trains: Trains | None = None
    output: Path = Path("runs/train")
    resume: bool = False
    force: bool = False
    epochs: int = 1
    max_steps: int | None = None
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float | None = None
    projector_learning_rate: float | None = None
    vision_learning_rate: float | None = None
    warmup: float = 0.03
    weight_decay: float = 0.0
    beta2: float = 0.95
    clip: float = 1.0
    max_skipped: int = 10
    ema: float | None = None
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    image_sizes: list[int] | None = None
    pack: Literal["none", "image", "sequence"] = "image"
    row_length: int = 1024
    max_length: int | None = None
    allowed_unusable: float = 0.01
    cache: Literal["auto", "on", "off"] = "auto"
    cache_folder: Path | None = None
    cache_gb: float = 50.0
    cache_dtype: Literal["float16", "bfloat16"] = "float16"
    workers: int | None = None
    save_every: int = 500
    keep: int = 2
    validate_every: int | None = None
    answer_every: int | None = None
    trackers: list[str] | None = None

    def __post_init__(self) -> None:
        for told, (holds, names) in RANGES.items():
            for name in names:
                value = getattr(self, name)
                if value is not None and not holds(value):
                    raise ConfigError(f"{name} must be {told}, not {value}")
        if self.image_sizes == []:
            raise ConfigError("image_sizes names no size: leave it out for the tower's own")

    def check(self) -> None:
        """A UsageError for no data, a ConfigError for settings that the stage has no use for, and a
        DataError for data that is not there."""
        if not self.data:
            raise UsageError("data needs at least one entry, such as `[{path: captions.jsonl}]`")
        self.check_stage()
        for source in (*self.data, *(self.validation or [])):
            require_there(source)

    def check_stage(self) -> None:
        """A ConfigError for settings that the stage has no use for."""
        if self.stage != "contrast" and self.contrast is not None:
            raise ConfigError(f"contrast is of stage contrast, not of {self.stage}")
        if self.stage == "contrast":
            left = TrainConfig(self.data)
            for name in NOT_OF_CONTRAST:
                if getattr(self, name) != getattr(left, name):
                    raise ConfigError(f"stage contrast has no {name}: leave it out")
            for name in ("augment", "self_critical"):
                if any(getattr(source, name) for source in self.data):
                    raise ConfigError(f"stage contrast has no {name} of its data: leave it out")

    @property
    def augments(self) -> bool:
        """Whether photos of some source are others each time that they come."""
        return any(source.augment for source in self.data) or self.image_sizes is not None

    @property
    def self_critical(self) -> bool:
        """Whether the model draws captions of some source itself."""
        return any(source.self_critical for source in self.data)

    def resolve(self) -> None:
        """Fills in what the stage decides, and gives the model the adapters (those of a checkpoint
        to start from excepted) and the quantisation that `trains` asks for."""
        self.check_stage()
        if self.stage == "contrast":
            self.contrast = self.contrast or ContrastConfig()
            self.learning_rate = self.learning_rate or 1e-3
            return
        if self.trains is None:
            self.trains = Trains(language="lora" if self.stage == "instruct" else "frozen")
        if self.learning_rate is None:
            by_stage = 1e-3 if self.stage == "align" else 2e-5
            self.learning_rate = 2e-4 if self.trains.adapts else by_stage
        if self.trains.adapts and self.model.language.lora is None and self.start is None:
            self.model.language.lora = LoraConfig()
        if self.trains.language == "qlora":
            self.model.language.load_in = self.model.language.load_in or "4bit"


@dataclass
class PreviewConfig(TrainConfig):
    """Look at training data as the model will see it.

    Args:
        show: samples to print, the first of the first epoch that can be used, and of those that
            cannot.
        all: decode the photos and write the prompts of all samples, not only of a thousand of each
            source, which the seed draws.
    """

    show: int = 5
    all: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.show < 0:
            raise ConfigError(f"show must be at least 0, not {self.show}")

"""The data of a run: which samples each epoch has, in which order, and as which batches."""

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader

from train.config import TrainConfig
from train.features import FeatureCache
from train.loader import PhotoReader, Rows, Use, read_photo
from train.mixture import epoch_order
from train.order import epoch_batches
from vlm.data.photos import Photo
from vlm.data.sample import Sample, Samples, Skipped, SkipSample
from vlm.data.skipped import append_report
from vlm.errors import ConfigError, DataError
from vlm.messages import with_images
from vlm.model import VisionLanguageModel

ASKED = 4
"""Samples whose answers are looked at during a run."""

LONGEST = 2048
"""Tokens of a conversation, where neither config nor language model says less."""


@dataclass
class Epochs:
    """What is trained on and what is held out.

    Attributes:
        config: of the run, resolved.
        model: whose prompts and photos these become.
        accelerator: which process of how many this is.
        sources: samples of each source to train on.
        held_out: samples that are not trained on.
        features: patch tokens of the photos to train on; None computes them in each step.
        held_out_features: likewise of those held out.
        fingerprint: of all samples.
    """

    config: TrainConfig
    model: VisionLanguageModel
    accelerator: Accelerator
    sources: list[Samples]
    held_out: list[Sample]
    features: FeatureCache | None
    held_out_features: FeatureCache | None
    fingerprint: str

    def __post_init__(self) -> None:
        self.samples = [sample for source in self.sources for sample in source.usable]
        self.uses = [
            Use(source.augment, source.self_critical)
            for source, samples in zip(self.config.data, self.sources, strict=True)
            for _ in samples.usable
        ]
        for sample in self.drawn:
            if not sample.questions:
                raise ConfigError(f"self_critical needs captions, and {sample.where} is none")
        steps = sum(map(self.steps, range(self.config.epochs)))
        if not steps:
            raise DataError("there are no samples to train on: see data, and its weights")
        self.total_steps = min(steps, self.config.max_steps or steps)

    @property
    def drawn(self) -> list[Sample]:
        """The samples whose captions the model draws itself."""
        return [sample for sample, use in zip(self.samples, self.uses, strict=True) if use.draw]

    @property
    def skipped(self) -> list[Skipped]:
        """What could not be used to train on when the sources were read."""
        return [one for source in self.sources for one in source.skipped]

    @property
    def report_file(self) -> Path:
        """Where samples that cannot be used are listed."""
        return self.config.output / "skipped.jsonl"

    def order(self, epoch: int) -> list[int]:
        """Places in `samples`, in the order of one epoch."""
        sizes = [len(source.usable) for source in self.sources]
        weights = [source.weight for source in self.config.data]
        return epoch_order(sizes, weights, self.config.seed, epoch)

    def size(self, epoch: int) -> int:
        """Samples of one epoch, over all processes."""
        return len(self.order(epoch))

    def steps(self, epoch: int) -> int:
        """Changes of the weights in one epoch."""
        config, world = self.config, self.accelerator.num_processes
        return -(-self.size(epoch) // (config.batch_size * config.accumulate * world))

    def to_encode(self) -> tuple[list[Photo], float]:
        """The photos that the run comes to and that are the same each time, held-out ones first,
        and how many passes of the tower they take without a cache."""
        config = self.config
        photos = [photo for sample in self.held_out for photo in sample.photos]
        within = self.total_steps // config.validate_every if config.validate_every else 0
        passes = float(len(photos) * (config.epochs + within))
        if config.augments:
            return photos, passes
        steps, coming = 0, []
        for epoch in range(config.epochs):
            if steps < self.total_steps:
                steps += self.steps(epoch)
                coming += [p for place in self.order(epoch) for p in self.samples[place].photos]
        return photos + coming, passes + len(coming) * self.total_steps / steps

    def loader(self, epoch: int, from_step: int) -> DataLoader:
        """The batches of this process from a step of an epoch on."""
        config, order = self.config, self.order(epoch)
        samples = [self.samples[place] for place in order]
        uses = [self.uses[place] for place in order]
        rows = self.rows(samples, uses, self.features, epoch)
        batches = self.batches(samples, epoch, config.accumulate)
        return rows.loader(batches[from_step * config.accumulate :], config.workers)

    def validation(self) -> DataLoader:
        """The batches of held-out samples of this process, the same each time."""
        uses = [Use()] * len(self.held_out)
        rows = self.rows(self.held_out, uses, self.held_out_features, epoch=0)
        return rows.loader(self.batches(self.held_out, 0, accumulate=1), self.config.workers)

    def batches(self, samples: list[Sample], epoch: int, accumulate: int) -> list[list[int]]:
        """See `epoch_batches`."""
        return epoch_batches(
            [sum(map(len, sample.texts())) for sample in samples],
            self.config.batch_size,
            self.config.seed,
            epoch,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            accumulate,
        )

    def rows(
        self,
        samples: list[Sample],
        uses: list[Use],
        features: FeatureCache | None,
        epoch: int,
    ) -> Rows:
        """Samples in an order -> rows of batches."""
        vision, config = self.model.vision, self.config
        return Rows(
            samples,
            uses,
            PhotoReader(vision.preprocessing, features, (vision.num_tokens, vision.width)),
            partial(self.model.prompt, answer_next=False),
            longest(config, self.model),
            config.seed,
            epoch,
            config.pack,
            config.row_length,
        )

    def questions(self, answer_length: int) -> list[tuple[str, list[Image.Image], str]]:
        """Names and images of the photos, and the first question, of a few samples, held-out ones
        where there are some; those that cannot be read, or whose answer would have no room, are
        left out.

        Args:
            answer_length: tokens of an answer.
        """
        asked = []
        limit = self.model.language.max_length
        for sample in (self.held_out or self.samples)[:ASKED]:
            first = sample.messages(random.Random(self.config.seed))[0][0]["content"]
            text = "\n".join(part["text"] for part in first if part["type"] == "text")
            try:
                images = [read_photo(photo) for photo in sample.photos]
            except SkipSample:
                continue
            length = len(self.model.prompt(with_images(text, images)))
            if limit is None or length + answer_length <= limit:
                asked.append((", ".join(photo.name for photo in sample.photos), images, text))
        return asked

    def report(self, skipped: list[Skipped]) -> None:
        """Lists samples that turned out unusable."""
        if self.accelerator.is_main_process:
            append_report(skipped, self.report_file)


def longest(config: TrainConfig, model: VisionLanguageModel) -> int:
    """Tokens that one conversation may have."""
    most = min(LONGEST, model.language.max_length or LONGEST)
    return min(config.max_length or most, most)

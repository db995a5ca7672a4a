"""The data of a run: which samples each epoch has, in which order, and as which batches."""

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from train.config import TrainConfig
from train.features import FeatureCache
from train.loader import EpochSamples, PhotoReader, read_photo
from train.order import epoch_batches, epoch_order
from vlm.data.photos import Photo
from vlm.data.sample import Sample, Samples, Skipped, SkipSample
from vlm.data.skipped import append_report, check_share
from vlm.errors import DataError, PromptError
from vlm.model import VisionLanguageModel

ASKED = 4
"""Samples whose answers are looked at during a run."""

LONGEST = 2048
"""Tokens of a conversation, where neither config nor language model says less."""


@dataclass
class Epochs:
    """What is trained on and what, of `validation`, is held out; patch tokens of the photos that
    are the same each time, or None, which computes them in each step."""

    config: TrainConfig
    model: VisionLanguageModel
    accelerator: Accelerator
    sources: list[Samples]
    validation: list[Samples]
    skipped: list[Skipped]
    features: FeatureCache | None = None

    def __post_init__(self) -> None:
        self.samples = [sample for source in self.sources for sample in source.usable]
        self.held_out = [sample for source in self.validation for sample in source.usable]
        self.source_of = [found.source for found in self.sources for _ in found.usable]
        steps = sum(map(self.steps, range(self.config.epochs)))
        if not steps:
            raise DataError("there are no samples to train on: see data, and its weights")
        self.total_steps = min(steps, self.config.max_steps or steps)

    def order(self, epoch: int) -> list[int]:
        """Places in `samples`, in the order of one epoch."""
        sizes = [len(found.usable) for found in self.sources]
        weights = [found.source.weight for found in self.sources]
        return epoch_order(sizes, weights, self.config.seed, epoch)

    def steps(self, epoch: int) -> int:
        """Changes of the weights in one epoch."""
        config, world = self.config, self.accelerator.num_processes
        return -(-len(self.order(epoch)) // (config.batch_size * config.accumulate * world))

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

    def training_batches(self, epoch: int, from_step: int) -> DataLoader:
        """The batches of this process from a step of an epoch on."""
        config, order = self.config, self.order(epoch)
        features = None if config.augments else self.features
        samples = self.dataset([self.samples[place] for place in order], features, epoch)
        sources = [self.source_of[place] for place in order]
        samples.augmented = {at for at, source in enumerate(sources) if source.augment}
        samples.drawn = {at for at, source in enumerate(sources) if source.self_critical}
        batches = self.batches(samples.samples, epoch, config.accumulate)
        return samples.loader(batches[from_step * config.accumulate :], config.workers)

    def held_out_batches(self) -> DataLoader:
        """The batches of held-out samples of this process, the same each time."""
        samples = self.dataset(self.held_out, self.features, epoch=0)
        return samples.loader(self.batches(self.held_out, 0, accumulate=1), self.config.workers)

    def batches(self, samples: list[Sample], epoch: int, accumulate: int) -> list[list[int]]:
        return epoch_batches(
            [sum(map(len, sample.texts())) for sample in samples],
            self.config.batch_size,
            self.config.seed,
            epoch,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            accumulate,
        )

    def dataset(
        self, samples: list[Sample], features: FeatureCache | None, epoch: int
    ) -> EpochSamples:
        vision, config = self.model.vision, self.config
        return EpochSamples(
            samples,
            PhotoReader(vision.preprocessing, features, (vision.num_tokens, vision.width)),
            partial(self.model.prompt, answer_next=False),
            config,
            longest(config, self.model),
            epoch,
        )

    def questions(self, answer_length: int) -> list[tuple[str, str, list[dict[str, Any]]]]:
        """Of a few samples, held-out ones where there are some: names of the photos, first question
        and the messages up to it; those that cannot be read, or asked, or whose answer of so many
        tokens would have no room, are left out."""
        asked = []
        limit = self.model.language.max_length
        for sample in (self.held_out or self.samples)[:ASKED]:
            (messages, *_) = sample.messages(random.Random(self.config.seed))
            first = [message["role"] for message in messages].index("user")
            content = messages[first]["content"]
            text = "\n".join(part["text"] for part in content if part["type"] == "text")
            names = ", ".join(part["image"].name for part in content if part["type"] == "image")
            try:
                for part in content:
                    if part["type"] == "image":
                        part["image"] = read_photo(part["image"])
                length = len(self.model.prompt(messages[: first + 1]))
            except (SkipSample, PromptError):
                continue
            if limit is None or length + answer_length <= limit:
                asked.append((names, text, messages[: first + 1]))
        return asked

    def report(self, own: list[Skipped]) -> None:
        """Lists samples that turned out unusable, each once. All processes call it."""
        before = {one.where for one in self.skipped}
        everyone: list[Skipped] = gather_object(own)
        found = {one.where: one for one in everyone if one.where not in before}
        if not found:
            return
        self.skipped += found.values()
        file, total = report_file(self.config), size_of([*self.sources, *self.validation])
        if self.accelerator.is_main_process:
            append_report(found.values(), file)
        check_share(self.skipped, total, self.config.allowed_unusable, file)


def report_file(config: TrainConfig) -> Path:
    """Where samples that cannot be used are listed."""
    return config.output / "skipped.jsonl"


def size_of(sources: list[Samples]) -> int:
    """Samples, those that cannot be used among them."""
    return sum(len(source.usable) + len(source.skipped) for source in sources)


def longest(config: TrainConfig, model: VisionLanguageModel) -> int:
    """Tokens that one conversation may have."""
    most = min(LONGEST, model.language.max_length or LONGEST)
    return min(config.max_length or most, most)

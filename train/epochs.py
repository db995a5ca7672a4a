"""The data of a run: which samples each epoch has, in which order, and as which batches."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import ConcatDataset, DataLoader, Subset

from train.config import TrainConfig
from train.features import FeatureCache
from train.loader import EpochSamples, PhotoReader, read_photo
from train.order import epoch_batches, epoch_order, epoch_size
from vlm.data.index import outline
from vlm.data.outline import Outline, joined
from vlm.data.photos import Photo
from vlm.data.sample import Sample, Samples, Skipped, SkipSample
from vlm.data.skipped import append_report, check_share
from vlm.errors import ConfigError, DataError, PromptError
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
        self.samples, self.known = concatenated(self.sources)
        self.held_out, self.held_out_known = concatenated(self.validation)
        self.sizes = [len(found.usable) for found in self.sources]
        self.weights = [found.source.weight for found in self.sources]
        steps = sum(map(self.steps, range(self.config.epochs)))
        if not steps:
            raise DataError("there are no samples to train on: see data, and its weights")
        self.total_steps = min(steps, self.config.max_steps or steps)
        vision, projector = self.model.vision, self.model.projector
        if vision.tiles and self.config.image_sizes:
            raise ConfigError("image_sizes are of whole photos: leave it or model.vision.tiles out")
        self.sizes_drawn = [
            (vision.preprocessing.at(size), projector.tokens_of(vision.grid_at(size)))
            for size in self.config.image_sizes or []
        ]

    def order(self, epoch: int) -> np.ndarray:
        """Places in `samples`, in the order of one epoch."""
        return np.array(epoch_order(self.sizes, self.weights, self.config.seed, epoch), np.int64)

    def steps(self, epoch: int) -> int:
        """Changes of the weights in one epoch."""
        size = epoch_size(self.sizes, self.weights, epoch)
        config, world = self.config, self.accelerator.num_processes
        return -(-size // (config.batch_size * config.accumulate * world))

    def to_encode(self) -> tuple[Sequence[Photo], float]:
        """The photos that the run comes to and that are the same each time, held-out ones first,
        and how many passes of the tower they take without a cache."""
        config = self.config
        held_out = np.arange(len(self.held_out))
        within = self.total_steps // config.validate_every if config.validate_every else 0
        passes = float(self.held_out_known.counts.sum() * (config.epochs + within))
        if config.augments:
            return Photos(self.held_out, self.held_out_known, held_out), passes
        steps, coming = 0, []
        for epoch in range(config.epochs):
            if steps < self.total_steps:
                steps += self.steps(epoch)
                coming.append(self.order(epoch))
        order = np.concatenate(coming)
        passes += self.known.counts[order].sum() * self.total_steps / steps
        samples, known = concatenated([*self.validation, *self.sources])
        return Photos(samples, known, np.concatenate([held_out, len(held_out) + order])), passes

    def training_batches(self, epoch: int, from_step: int) -> DataLoader:
        """The batches of this process from a step of an epoch on."""
        config, order = self.config, self.order(epoch)
        features = None if config.augments else self.features
        samples = self.dataset(Subset(self.samples, order), features, epoch)
        sources = np.repeat(np.arange(len(self.sources)), self.sizes)[order]
        samples.augmented = set(np.flatnonzero(self.asks("augment")[sources]).tolist())
        samples.drawn = set(np.flatnonzero(self.asks("self_critical")[sources]).tolist())
        batches = self.batches(self.known.lengths[order], epoch, config.accumulate)
        if self.sizes_drawn:
            # The same for all processes, or those with few pixels would wait for the others.
            draw = random.Random(f"{config.seed}/{epoch}/sizes")
            drawn = [(batch, draw.choice(self.sizes_drawn)) for batch in batches]
            samples.resized = {place: size for batch, size in drawn for place in batch}
        return samples.loader(batches[from_step * config.accumulate :], config.workers)

    def held_out_batches(self) -> DataLoader:
        """The batches of held-out samples of this process, the same each time."""
        samples = self.dataset(self.held_out, self.features, epoch=0)
        batches = self.batches(self.held_out_known.lengths, 0, accumulate=1)
        return samples.loader(batches, self.config.workers)

    def asks(self, setting: str) -> np.ndarray:
        """Which of the sources ask for something."""
        return np.array([getattr(found.source, setting) for found in self.sources], bool)

    def batches(self, lengths: np.ndarray, epoch: int, accumulate: int) -> list[list[int]]:
        return epoch_batches(
            lengths.tolist(),
            self.config.batch_size,
            self.config.seed,
            epoch,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            accumulate,
        )

    def dataset(
        self, samples: Sequence[Sample], features: FeatureCache | None, epoch: int
    ) -> EpochSamples:
        vision, config = self.model.vision, self.config
        return EpochSamples(
            samples,
            PhotoReader(
                vision.preprocessing, features, (vision.num_tokens, vision.width), vision.tiles
            ),
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
        for sample in islice(self.held_out or self.samples, ASKED):
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


class Photos(Sequence[Photo]):
    """The photos of samples in an order, each of them once, read when it is asked for."""

    def __init__(self, samples: Sequence[Sample], known: Outline, order: np.ndarray) -> None:
        counts = known.counts[order]
        of = np.repeat(order, counts)
        within = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
        first = np.cumsum(known.counts) - known.counts
        _, once = np.unique(known.photos[first[of] + within], return_index=True)
        once.sort()
        self._samples, self._of, self._within = samples, of[once], within[once]

    def __len__(self) -> int:
        return len(self._of)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        return self._samples[self._of[at]].photos[self._within[at]]


def concatenated(sources: list[Samples]) -> tuple[Sequence[Sample], Outline]:
    """The samples of several sources, one source after the other, and what is known of them."""
    usable = [found.usable for found in sources]
    return ConcatDataset(usable) if usable else [], joined(list(map(outline, usable)))


def report_file(config: TrainConfig) -> Path:
    """Where samples that cannot be used are listed."""
    return config.output / "skipped.jsonl"


def size_of(sources: list[Samples]) -> int:
    """Samples, those that cannot be used among them."""
    return sum(len(source.usable) + len(source.skipped) for source in sources)


def longest(config: TrainConfig, model: VisionLanguageModel) -> int:
    """Tokens that one conversation may have."""
    asked = config.max_length or LONGEST
    return min(asked, model.language.max_length or asked)

"""Caption data for stage 1: photos with several captions each, as prompts that share an image."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from train.features import FeatureCache
from train.packing import pack
from vlm.batch import Batch
from vlm.captions import CaptionedImage, read_captions
from vlm.errors import ConfigError
from vlm.images import load_image
from vlm.model import VisionLanguageModel
from vlm.prompt import Prompt

QUESTIONS = [
    "Describe the image.",
    "Describe the image in one sentence.",
    "What is in the picture?",
    "What does the photo show?",
    "What do you see in this image?",
    "Write a caption for this photo.",
]
"""What a caption may be the answer to; one is drawn for each photo and epoch."""

POOL = 16
"""Batches whose samples are sorted by length together."""


@dataclass
class CaptionSource:
    """One file of captions.

    Args:
        file: JSON-lines with `image`, `captions` and optionally `split` and `question`.
        split: keep only this split; None keeps all.
        questions: what the captions answer; one is drawn for each photo and epoch. A `question` in
            the file comes first.
        limit: keep only this many photos, the first; None keeps all.
        repeat: times that the photos are seen in one epoch.
    """

    file: Path
    split: str | None = None
    questions: list[str] = field(default_factory=lambda: list(QUESTIONS))
    limit: int | None = None
    repeat: int = 1

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, not {self.limit}")
        if self.repeat < 1:
            raise ConfigError(f"repeat must be at least 1, not {self.repeat}")
        if not self.questions:
            raise ConfigError(f"{self.file} needs at least one question")


@dataclass(frozen=True)
class CaptionSample:
    """A photo with its captions and the questions they may answer."""

    photo: CaptionedImage
    questions: tuple[str, ...]


def read_sources(sources: list[CaptionSource]) -> list[CaptionSample]:
    """All photos of all sources, in order, repeated as each source says.

    Raises:
        DataError: as `read_captions`.
    """
    samples = []
    for source in sources:
        photos = [
            CaptionSample(photo, (photo.question,) if photo.question else tuple(source.questions))
            for photo in read_captions(source.file, source.split)[: source.limit]
        ]
        samples += photos * source.repeat
    return samples


def tidy(caption: str) -> str:
    """A caption as one would write it: capital first, no space in front of its full stop.

    >>> tidy("a black dog runs . ")
    'A black dog runs.'
    """
    words = " ".join(caption.split()).rstrip(" .")
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('!', '?')) else '.'}"


def caption_prompts(
    model: VisionLanguageModel, sample: CaptionSample, generator: random.Random
) -> list[Prompt]:
    """One conversation for each different caption of a photo, all with the same question."""
    question = generator.choice(sample.questions)
    prompts = []
    for caption in dict.fromkeys(tidy(caption) for caption in sample.photo.captions):
        content = [
            {"type": "image", "image": sample.photo.image},
            {"type": "text", "text": question},
        ]
        messages = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": caption},
        ]
        prompts.append(model.prompt(messages, answer_next=False))
    return prompts


class CaptionRows(Dataset):
    """Photos of one epoch as packed batches.

    Args:
        model: whose prompts are built; only its tokenizer is used.
        features: the photos' patch tokens; None gives each photo's pixel values, cropped and
            flipped at random (see `augment`).
        samples: the photos.
        seed: with the epoch and the photo, determines whatever is drawn.
        epoch: counted from 0.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        features: FeatureCache | None,
        samples: list[CaptionSample],
        seed: int,
        epoch: int,
    ) -> None:
        self.model, self.features, self.samples = model, features, samples
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[list[Prompt], Tensor]:
        sample = self.samples[index]
        generator = random.Random(f"{self.seed}/{self.epoch}/{index}")
        prompts = caption_prompts(self.model, sample, generator)
        if self.features is not None:
            return prompts, self.features[[sample.photo.image]][0]
        photo = augment(load_image(sample.photo.image), generator)
        return prompts, self.model.vision.preprocessing(photo)

    def batch(self, rows: list[tuple[list[Prompt], Tensor]]) -> Batch:
        """One packed batch: a row for each photo, with all its captions."""
        prompts, images = zip(*rows, strict=True)
        return pack(list(prompts), torch.stack(images))

    def loader(
        self, batch_size: int, workers: int, rank: int = 0, world: int = 1, accumulate: int = 1
    ) -> DataLoader:
        """The batches of one process, see `epoch_batches`."""
        lengths = [sum(map(len, sample.photo.captions)) for sample in self.samples]
        batches = epoch_batches(lengths, batch_size, self.seed, self.epoch, rank, world, accumulate)
        return DataLoader(self, batch_sampler=batches, num_workers=workers, collate_fn=self.batch)


def augment(photo: Image.Image, generator: random.Random) -> Image.Image:
    """Another view of a photo that the same captions fit: a random part of it with at least 60% of
    its area, mirrored half of the time (Szegedy et al. 2015, milder)."""
    scale = generator.uniform(0.6, 1.0) ** 0.5
    stretch = generator.uniform(scale, 1 / scale) ** 0.5
    width = max(1, round(photo.width * scale * stretch))
    height = max(1, round(photo.height * scale / stretch))
    left = generator.randint(0, photo.width - width)
    top = generator.randint(0, photo.height - height)
    part = photo.crop((left, top, left + width, top + height))
    return ImageOps.mirror(part) if generator.random() < 0.5 else part


def epoch_batches(
    lengths: list[int],
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
) -> list[list[int]]:
    """Indices of the samples of each batch of one process, in a shuffle that seed and epoch
    determine.

    Samples of like length meet in one change of the weights, so that little of a batch is padding,
    and all lengths alternate. `world` processes that accumulate once see the same samples together
    as one that accumulates `world` times. What is left over is a smaller, last step if every
    process has a sample of it.

    Args:
        lengths: of the samples, in characters of text.
        batch_size: samples in a batch.
        seed: with the epoch, determines the order.
        epoch: counted from 0.
        rank: of this process.
        world: number of processes.
        accumulate: batches of each process for one change of the weights.
    """
    order = list(range(len(lengths)))
    generator = random.Random(f"{seed}/{epoch}")
    generator.shuffle(order)
    size = batch_size * world * accumulate
    whole = len(order) - len(order) % size
    steps = []
    for start in range(0, whole, POOL * size):
        # Coarse, or photos with the same one-word name would fill a batch of their own.
        pool = order[start : min(start + POOL * size, whole)]
        pool.sort(key=lambda index: lengths[index] // 64)
        steps += [pool[first : first + size] for first in range(0, len(pool), size)]
    generator.shuffle(steps)
    steps.append(order[whole:])
    batches = []
    for step in steps:
        parts = world * min(accumulate, len(step) // world)
        batches += [step[part::parts] for part in range(rank, parts, world)]
    return batches

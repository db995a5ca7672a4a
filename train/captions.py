"""Caption data for stage 1: photos with several captions each, as prompts that share an image."""

import random
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from train.features import FeatureCache
from train.packing import pack
from vlm.batch import Batch
from vlm.captions import CaptionedImage, read_captions
from vlm.errors import ConfigError
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
        features: the photos' patch tokens.
        samples: the photos.
        seed: with the epoch and the photo, determines the question that is drawn.
        epoch: counted from 0.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        features: FeatureCache,
        samples: list[CaptionSample],
        seed: int,
        epoch: int,
    ) -> None:
        self.model, self.features, self.samples = model, features, samples
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> list[Prompt]:
        sample = self.samples[index]
        generator = random.Random(f"{self.seed}/{self.epoch}/{index}")
        return caption_prompts(self.model, sample, generator)

    def batch(self, rows: list[list[Prompt]]) -> Batch:
        """One packed batch: a row for each photo, with all its captions."""
        photos = [Path(image) for prompts in rows for image in prompts[0].images]
        return pack(rows, self.features[photos])

    def loader(self, batch_size: int, workers: int, rank: int, world: int) -> DataLoader:
        """The batches of one process, see `epoch_batches`."""
        batches = epoch_batches(len(self), batch_size, self.seed, self.epoch, rank, world)
        return DataLoader(self, batch_sampler=batches, num_workers=workers, collate_fn=self.batch)


def epoch_batches(
    count: int, batch_size: int, seed: int, epoch: int, rank: int, world: int
) -> list[list[int]]:
    """Indices of the samples of each batch of one process: a shuffle that seed and epoch determine,
    cut into global batches of which each process takes its own part. The last, smaller global
    batch is kept if every process has a sample of it."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    starts = range(0, count, batch_size * world)
    everyone = [order[start : start + batch_size * world] for start in starts]
    return [batch[rank::world] for batch in everyone if len(batch) >= world]

"""Samples -> the batches of one epoch: prompts that fit, photos as features or as pixel values."""

import random
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from train.augment import mirror, view
from train.batch import Batch, collate
from train.features import FeatureCache
from train.packing import NOTHING, empty_batch, pack
from train.rewards import Draft, draft
from vlm.data.photos import Photo, decode
from vlm.data.sample import Sample, Skipped, SkipSample
from vlm.errors import ImageError, VLMError
from vlm.preprocess import Preprocessing
from vlm.prompt import Prompt

PromptBuilder = Callable[[list[dict]], Prompt]
"""Turns one conversation into a whole prompt (`answer_next=False`)."""


def prompts_of(
    sample: Sample, prompt: PromptBuilder, generator: random.Random, max_length: int
) -> list[Prompt]:
    """The conversations of a sample, none of them longer than `max_length` tokens.

    Raises:
        SkipSample: an image that would not fit, or no answer that would.
    """
    return [shorten(prompt(messages), max_length) for messages in sample.messages(generator)]


def shorten(prompt: Prompt, max_length: int) -> Prompt:
    """Leaves out the end of a conversation that is too long; an image's tokens are never cut.

    Raises:
        SkipSample: an image ends behind the last token that fits, or no supervised token is in
            front of it.
    """
    if len(prompt) <= max_length:
        return prompt
    inside = not prompt.image_slots or prompt.image_slots[-1].stop <= max_length
    if not inside or True not in prompt.loss_mask[:max_length]:
        raise SkipSample("too long", f"{len(prompt)} tokens do not fit into {max_length}")
    return Prompt(
        prompt.input_ids[:max_length],
        prompt.loss_mask[:max_length],
        prompt.image_slots,
        prompt.images,
    )


@dataclass(frozen=True)
class PhotoReader:
    """How the photos of training samples become what the model takes.

    Attributes:
        preprocessing: of the vision tower.
        features: patch tokens of photos that are not augmented; None computes them in each step.
        shape: (N, D) of the patch tokens.
    """

    preprocessing: Preprocessing
    features: FeatureCache | None
    shape: tuple[int, int]

    def none(self) -> Tensor:
        """No photo, in the form of the others: (0, N, D) or (0, 3, H, W)."""
        if self.features is not None:
            return torch.empty((0, *self.shape), dtype=self.features.dtype)
        size = self.preprocessing.size
        return torch.empty((0, 3, size, size))

    def load(self, photo: Photo) -> Tensor:
        """Patch tokens (N, D), or pixel values (3, H, W).

        Raises:
            SkipSample: the photo cannot be read.
        """
        if self.features is None:
            return self.preprocessing(read_photo(photo))
        found = self.features.get(photo)
        if found is None:
            read_photo(photo)
            raise SkipSample("changed image", f"{photo.name} is not what it was when the run began")
        return found


def read_photo(photo: Photo) -> Image.Image:
    """The photo as RGB.

    Raises:
        SkipSample: it cannot be read.
    """
    try:
        return decode(photo)
    except ImageError as error:
        raise SkipSample("broken image", str(error)) from error


@dataclass
class Prepared:
    """One batch, and what is missing from it.

    Attributes:
        batch: what the model is trained on.
        images: photos in it, those of drafts included.
        samples: samples in it, likewise.
        skipped: samples that were to be in it and cannot be used.
        drafts: photos whose captions the model is to draw itself.
    """

    batch: Batch
    images: int
    samples: int
    skipped: list[Skipped]
    drafts: list[Draft]


@dataclass(frozen=True)
class Use:
    """What is done with a sample; nothing is as it is.

    Attributes:
        augment: its photos are cropped and mirrored at random.
        draw: the model draws its captions itself, see train/rewards.py.
    """

    augment: bool = False
    draw: bool = False


Row = tuple[list[Prompt], list[Tensor]] | Draft | Skipped | VLMError
"""One sample: its conversations and photos, its photo alone, or what is wrong with it or with more
than it."""


class Rows(Dataset):
    """The samples of one epoch.

    Args:
        samples: in the epoch's order.
        uses: of each.
        photos: how photos are read.
        prompt: how conversations are written.
        max_length: tokens of one conversation.
        seed: with epoch and place, determines whatever is drawn.
        epoch: counted from 0.
        pack: as in the config.
        row_length: tokens of one row, where several samples share one.
    """

    def __init__(
        self,
        samples: list[Sample],
        uses: list[Use],
        photos: PhotoReader,
        prompt: PromptBuilder,
        max_length: int,
        seed: int,
        epoch: int,
        pack: str,
        row_length: int,
    ) -> None:
        self.samples, self.uses = samples, uses
        self.photos, self.prompt, self.max_length = photos, prompt, max_length
        self.seed, self.epoch = seed, epoch
        self.pack, self.row_length = pack, row_length

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Row:
        """Prompts and photos of one sample, or what is wrong with it."""
        sample, use = self.samples[place], self.uses[place]
        generator = random.Random(f"{self.seed}/{self.epoch}/{place}")
        try:
            mirrored = False
            if use.augment:
                sample, mirrored = mirror(sample, generator)
            prompts = prompts_of(sample, self.prompt, generator, self.max_length)
            if use.augment:
                views = [view(read_photo(photo), mirrored, generator) for photo in sample.photos]
                images = [self.photos.preprocessing(each) for each in views]
            else:
                images = [self.photos.load(photo) for photo in sample.photos]
            if use.draw:
                return draft(prompts[0], images[0], sample.texts())
            return prompts, images
        except SkipSample as error:
            return Skipped(sample.where, error.reason, error.detail)
        except VLMError as error:
            # Raised in a worker, it would come with the worker's traceback for a message.
            return error

    def collate(self, rows: list[Row]) -> Prepared | VLMError:
        """One batch of those that can be used, or the first error that is not one sample's."""
        for row in rows:
            if isinstance(row, VLMError):
                return row
        usable = [row for row in rows if not isinstance(row, Skipped | Draft)]
        skipped = [row for row in rows if isinstance(row, Skipped)]
        drafts = [row for row in rows if isinstance(row, Draft)]
        groups = [prompts for prompts, _ in usable]
        images = [image for _, own in usable for image in own]
        if self.pack == "none":
            # Each conversation has a copy of its sample's images.
            images = [image for prompts, own in usable for _ in prompts for image in own]
        stacked = torch.stack(images) if images else self.photos.none()
        if self.pack == "none":
            # Without blocks, which FlashAttention does not know.
            batch = collate([p for group in groups for p in group] or [NOTHING], stacked)
        elif groups:
            row_length = self.row_length if self.pack == "sequence" else None
            batch = pack(groups, stacked, row_length)
        else:
            batch = empty_batch(stacked)
        drawn = len(drafts)
        return Prepared(batch, len(images) + drawn, len(usable) + drawn, skipped, drafts)

    def loader(self, batches: list[list[int]], workers: int) -> DataLoader:
        """The given batches in their order."""
        return DataLoader(
            self,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=self.collate,
            worker_init_fn=ignore_signals,
            # Its own, or each start of a loader would draw from the run's random numbers, and a
            # resumed run has one start more.
            generator=torch.Generator().manual_seed(self.seed),
        )


@contextmanager
def prepared_batches(loader: Iterable[Prepared | VLMError]) -> Iterator[Iterator[Prepared]]:
    """Within, the batches of a loader; its workers end with the block, however it ends: they ignore
    the signal by which Python would end them, and would wait for it forever.

    Raises:
        VLMError: that of a worker, in place of its batch.
    """
    batches = iter(loader)

    def each() -> Iterator[Prepared]:
        for prepared in batches:
            if isinstance(prepared, VLMError):
                raise prepared
            yield prepared

    try:
        yield each()
    finally:
        if isinstance(loader, DataLoader) and loader.num_workers:
            batches._shutdown_workers()


def ignore_signals(_: int) -> None:
    """In a worker: the training process alone decides how a run ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def first_prompts(
    samples: list[Sample], prompt: PromptBuilder, seed: int, max_length: int
) -> Iterator[tuple[Sample, list[Prompt]]]:
    """Samples with their prompts as the first epoch sees them; unusable ones are left out."""
    for place, sample in enumerate(samples):
        generator = random.Random(f"{seed}/0/{place}")
        try:
            yield sample, prompts_of(sample, prompt, generator, max_length)
        except SkipSample:
            continue

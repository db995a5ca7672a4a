"""Samples -> the batches of one epoch: prompts that fit, photos as features or as pixel values."""

import random
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from train.augment import mirror, view
from train.batch import Batch, collate
from train.config import TrainConfig
from train.features import FeatureCache
from train.packing import NOTHING, empty_batch, pack
from vlm.data.photos import Photo, decode
from vlm.data.sample import Sample, Skipped, SkipSample
from vlm.errors import ImageError, PromptError, VLMError
from vlm.preprocess import Preprocessing
from vlm.prompt import Prompt
from vlm.tiles import Tiles

PromptBuilder = Callable[[list[dict]], Prompt]
"""Turns one conversation into a whole prompt (`answer_next=False`)."""


CUT = "answer cut or left out by max_length"
"""What `vlm data` and `vlm train` call an answer that is not trained whole."""


def prompts_of(
    sample: Sample, prompt: PromptBuilder, generator: random.Random, max_length: int
) -> tuple[list[Prompt], int]:
    """The conversations of a sample, none of them longer than `max_length` tokens, and how many of
    their answers are cut by that. A SkipSample where that leaves nothing to learn, or the model's
    chat template refuses one, as some do a system message."""
    try:
        whole = [prompt(messages) for messages in sample.messages(generator)]
    except PromptError as error:
        raise SkipSample("refused by the chat template", str(error)) from error
    cut = sum(cut_answers(each, max_length) for each in whole)
    return [shorten(each, max_length) for each in whole], cut


def cut_answers(prompt: Prompt, max_length: int) -> int:
    """Answers, each a run of supervised tokens, that do not end within so many tokens."""
    mask = [*prompt.loss_mask, False]
    return sum(mask[at] and not mask[at + 1] for at in range(max_length, len(prompt)))


def shorten(prompt: Prompt, max_length: int) -> Prompt:
    """Leaves out the end of a conversation that is too long, and with it the end of turn of the
    answer that it cuts, which must not be learned there. A SkipSample where that would cut an
    image's tokens, or all supervised ones."""
    if len(prompt) <= max_length:
        return prompt
    inside = not prompt.image_slots or prompt.image_slots[-1].stop <= max_length
    if not inside or True not in prompt.loss_mask[:max_length]:
        raise SkipSample("too long", f"{len(prompt)} tokens do not fit into {max_length}")
    ids, mask = prompt.input_ids[:max_length], prompt.loss_mask[:max_length]
    return replace(prompt, input_ids=ids, loss_mask=mask)


@dataclass(frozen=True)
class PhotoReader:
    """How the photos of training samples become what the model takes: patch tokens of the `shape`
    (N, D) where there are `features`, else pixel values, of all squares where there are `tiles`."""

    preprocessing: Preprocessing
    features: FeatureCache | None
    shape: tuple[int, int]
    tiles: Tiles | None = None

    def none(self) -> Tensor:
        """No photo, in the form of the others: (0, N, D) or (0, 3, H, W)."""
        if self.features is not None:
            return torch.empty((0, *self.shape), dtype=self.features.dtype)
        size = self.preprocessing.size
        return torch.empty((0, 3, size, size))

    def load(self, photo: Photo) -> Tensor:
        """Patch tokens (N, D), or pixel values (3, H, W)."""
        if self.features is None:
            return self.preprocessing(read_photo(photo))
        found = self.features.get(photo)
        if found is None:
            read_photo(photo)
            raise SkipSample("changed image", f"{photo.name} is not what it was when the run began")
        return found


def read_photo(photo: Photo) -> Image.Image:
    """The photo as RGB; a SkipSample if it cannot be read."""
    try:
        return decode(photo)
    except ImageError as error:
        raise SkipSample("broken image", str(error)) from error


@dataclass(frozen=True)
class Loaded:
    """A sample that can be used: its conversations, its photos, each (3, H, W), in tiles
    (S, 3, H, W), or (N, D), where the model is to draw captions of its own, those by people, and
    answers that `max_length` cuts."""

    prompts: list[Prompt]
    images: list[Tensor]
    references: list[str] | None = None
    cut: int = 0


def alike(row: Loaded) -> list[Loaded]:
    """The conversations of a sample in groups that begin alike up to behind their images, whose
    tokens they can share; each group with the images."""
    groups: dict[tuple[int, ...], list[Prompt]] = {}
    for number, prompt in enumerate(row.prompts):
        end = prompt.image_slots[-1].stop if prompt.image_slots else 0
        # What is learned is not shared, so nothing behind it is.
        alone = number if True in prompt.loss_mask[:end] else -1
        groups.setdefault((alone, *prompt.input_ids[:end]), []).append(prompt)
    return [Loaded(prompts, row.images) for prompts in groups.values()]


@dataclass(frozen=True)
class Prepared:
    """One batch, and what is missing from it: samples that cannot be used, the ends of answers that
    are `cut`, and samples `drawn`, whose captions the model is to draw. `images` counts the photos
    of these too, and of photos in tiles the squares."""

    batch: Batch
    images: int
    cut: int
    skipped: list[Skipped]
    drawn: list[Loaded]


@dataclass(eq=False)
class EpochSamples(Dataset):
    """The samples of one epoch, in its order. The config's seed, the epoch, counted from 0, and the
    place determine whatever is random.

    Args:
        max_length: tokens of one conversation.
        augmented: places of samples whose photos are cropped and mirrored at random.
        drawn: places of samples whose captions the model draws itself, see train/rewards.py.
        resized: of places whose photos come at another size than the tower's, how they become pixel
            values, and the image tokens of each.
    """

    samples: Sequence[Sample]
    photos: PhotoReader
    prompt: PromptBuilder
    config: TrainConfig
    max_length: int
    epoch: int
    augmented: Set[int] = frozenset()
    drawn: Set[int] = frozenset()
    resized: Mapping[int, tuple[Preprocessing, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Loaded | Skipped | VLMError:
        """One sample, or what is wrong with it, or with more than it."""
        sample, mirrored = self.samples[place], False
        generator = random.Random(f"{self.config.seed}/{self.epoch}/{place}")
        try:
            if place in self.augmented:
                sample, mirrored = mirror(sample, generator)
            prompt, tiles = self.prompt, self.photos.tiles
            preprocessing = self.photos.preprocessing
            if place in self.resized:
                preprocessing, image_tokens = self.resized[place]
                prompt = partial(prompt, image_tokens=image_tokens)
            if tiles is not None:
                # First: their sizes say how many image tokens the prompts have.
                views = self.views(place, sample, mirrored, generator)
                # By photo, as one that comes twice has one size in the prompt.
                opened = dict(zip(sample.photos, views, strict=True))
                prompt = partial(prompt, load=opened.__getitem__)
            prompts, cut = prompts_of(sample, prompt, generator, self.max_length)
            if tiles is not None:
                images = [tiles(opened[photo]) for photo in sample.photos]
            elif place in self.augmented or place in self.resized:
                views = self.views(place, sample, mirrored, generator)
                images = [preprocessing(each) for each in views]
            else:
                images = [self.photos.load(photo) for photo in sample.photos]
            return Loaded(prompts, images, sample.texts() if place in self.drawn else None, cut)
        except SkipSample as error:
            return error.at(sample.where)
        except VLMError as error:
            # Raised in a worker, it would come with the worker's traceback for a message.
            return error

    def views(
        self, place: int, sample: Sample, mirrored: bool, generator: random.Random
    ) -> list[Image.Image]:
        """The photos of a sample, cropped and mirrored where it is augmented."""
        photos = map(read_photo, sample.photos)
        if place not in self.augmented:
            return list(photos)
        return [view(photo, mirrored, generator) for photo in photos]

    def collate(self, rows: list[Loaded | Skipped | VLMError]) -> Prepared | VLMError:
        """One batch of those that can be used, or the first error that is not one sample's."""
        for row in rows:
            if isinstance(row, VLMError):
                return row
        skipped = [row for row in rows if isinstance(row, Skipped)]
        usable = [row for row in rows if isinstance(row, Loaded)]
        drawn = [row for row in usable if row.references is not None]
        batch = self.batch([row for row in usable if row.references is None])
        images = len(batch.images) + sum(len(row.images) for row in drawn)
        cut = sum(row.cut for row in usable)
        return Prepared(batch, images, cut, skipped, drawn)

    def batch(self, rows: list[Loaded]) -> Batch:
        """Samples, if there are any, packed as the config has it."""
        if self.config.pack == "none":
            # Each conversation with a copy of its sample's images.
            rows = [Loaded([prompt], row.images) for row in rows for prompt in row.prompts]
        else:
            rows = [group for row in rows for group in alike(row)]
        images = [image for row in rows for image in row.images]
        stack = torch.stack if self.photos.tiles is None else torch.cat
        stacked = stack(images) if images else self.photos.none()
        groups = [row.prompts for row in rows]
        if self.config.pack == "none":
            # Without blocks, which FlashAttention does not know.
            return collate([prompt for (prompt,) in groups] or [NOTHING], stacked)
        row_length = self.config.row_length if self.config.pack == "sequence" else None
        return pack(groups, stacked, row_length) if groups else empty_batch(stacked)

    def loader(self, batches: list[list[int]], workers: int) -> DataLoader:
        return DataLoader(
            self,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=self.collate,
            worker_init_fn=ignore_signals,
            # Its own, or each start of a loader would draw from the run's random numbers, and a
            # resumed run has one start more.
            generator=torch.Generator().manual_seed(self.config.seed),
        )


@contextmanager
def prepared_batches(loader: Iterable[Prepared | VLMError]) -> Iterator[Iterator[Prepared]]:
    """Within, the batches of a loader; its workers end with the block, however it ends: they ignore
    the signal by which Python would end them, and would wait for it forever."""
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
    samples: Iterable[Sample], prompt: PromptBuilder, seed: int, max_length: int
) -> Iterator[tuple[Sample, list[Prompt]]]:
    """Samples with their prompts as the first epoch sees them; unusable ones are left out."""
    for place, sample in enumerate(samples):
        generator = random.Random(f"{seed}/0/{place}")
        try:
            yield sample, prompts_of(sample, prompt, generator, max_length)[0]
        except SkipSample:
            continue

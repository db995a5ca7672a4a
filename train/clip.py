"""Contrastive training: photos and their texts -> a CLIP whose stem and sentence encoder stay
frozen, so that features of both are computed once and kept."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object, set_seed
from rich.console import Console
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

from train import malloc
from train.augment import SIDE
from train.config import TrainConfig
from train.contrastive import (
    clamp_scale,
    clip_loss,
    encode_in_chunks,
    gather,
    sigmoid_loss,
    similarities,
)
from train.ema import WeightAverage
from train.features import FeatureCache, together
from train.loader import ignore_signals
from train.log import METRICS, RunLog
from train.loop import Loop
from train.order import epoch_order, epoch_size
from train.photo_texts import Known, PhotoTexts, read_photo_texts
from train.plot import plot
from train.resume import TrainingState, begin, state_to_resume
from train.sentences import embedded
from train.start import start
from train.views import View
from vlm.data.sample import Skipped, by_reason
from vlm.data.skipped import check_share, write_report
from vlm.data.things import class_text
from vlm.errors import ConfigError, DataError
from vlm.hybrid_clip import HybridClip, save_hybrid, stem_config
from vlm.retrieval import retrieval, zero_shot


def train_clip(config: TrainConfig) -> Path:
    """Trains a CLIP; as `train.run.train`."""
    malloc.keep_freed_memory()
    config.resolve()
    accelerator = start(config)
    main = accelerator.is_main_process
    console = Console(stderr=True, quiet=not main, soft_wrap=True, highlight=False)
    console.print(f"computes in {config.precision} on {accelerator.device.type}")
    if accelerator.distributed_type == DistributedType.FSDP:
        raise ConfigError("stage contrast needs whole weights: launch it without FSDP")
    sources, skipped = read_all(config)
    data = fingerprint(sources)
    resumed = state_to_resume(config, data, accelerator, console)
    total = sum(map(len, sources)) + len(skipped)
    check_usable(skipped, total, config, console, main)

    set_seed(config.seed)
    clip = HybridClip(config.contrast.model).to(accelerator.device)
    epochs = ClipEpochs(config, clip, accelerator, sources, console)
    if epochs.broken:
        skipped += epochs.broken
        check_usable(skipped, total, config, console, main)
    network, optimizer = accelerator.prepare(clip, adamw(clip, config))
    set_seed(config.seed, device_specific=True)
    average = WeightAverage(clip, config.ema)
    state = TrainingState(accelerator, clip, network, optimizer, average, data)
    begin(state, config, resumed, epochs.total_steps, console)
    with RunLog(
        config.output,
        accelerator,
        console,
        epochs.total_steps,
        state.at.step,
        trackers=config.trackers,
    ) as log:
        ClipRun(config, state, epochs, log).train()
    checkpoint = config.output / "checkpoint"
    if main:
        plot(config.output / METRICS, config.output / "loss.png")
        console.print(f"vlm classify PHOTO --labels LABELS --model {checkpoint}: asks it")
    return checkpoint


def read_all(config: TrainConfig) -> tuple[list[list[PhotoTexts]], list[Skipped]]:
    """The photos of each source, held-out ones last, and those that cannot be used."""
    found, skipped = [], []
    for source in (*config.data, *(config.validation or [])):
        photos, lost = read_photo_texts(source)
        found.append(photos)
        skipped += lost
    return found, skipped


def check_usable(
    skipped: list[Skipped], total: int, config: TrainConfig, console: Console, main: bool
) -> None:
    """Reports the photos that cannot be used; a DataError if they are too many of all."""
    file = config.output / "skipped.jsonl"
    if main:
        write_report(skipped, file)
    check_share(skipped, total, config.allowed_unusable, file)
    if skipped:
        console.print(f"skipped: {by_reason(skipped)}; see {file}")


def fingerprint(sources: list[list[PhotoTexts]]) -> str:
    """SHA-256 over the photos' names and texts, in hexadecimal."""
    digest = hashlib.sha256()
    for photos in sources:
        digest.update(repr([(each.photo.name, each.texts) for each in photos]).encode())
    return digest.hexdigest()


def adamw(clip: HybridClip, config: TrainConfig) -> torch.optim.AdamW:
    """Weights decay; biases, norms, scale and single tokens do not."""
    trained = [p for p in clip.parameters() if p.requires_grad]
    rate = config.learning_rate
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group | {"lr": rate, "peak": rate} for group in groups]
    return torch.optim.AdamW(groups, betas=(0.9, config.beta2))


@dataclass
class ClipBatch:
    """Photos of one step of one process, by their numbers (B,), with the stem's patch tokens
    (B, N, C), and texts by their numbers (T,), with their sentence embeddings (T, 384)."""

    photos: Tensor
    stem_tokens: Tensor
    texts: Tensor
    sentences: Tensor

    def to(self, device: torch.device) -> "ClipBatch":
        return ClipBatch(*(each.to(device) for each in vars(self).values()))


class ClipEpochs:
    """What is trained on, the photos of the last sources being held out; their features are made
    here, where they are not there yet."""

    def __init__(
        self,
        config: TrainConfig,
        clip: HybridClip,
        accelerator: Accelerator,
        sources: list[list[PhotoTexts]],
        console: Console,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        trained = sources[: len(config.data)]
        self.sizes = list(map(len, trained))
        self.weights = [source.weight for source in config.data]
        self.known = Known([each for photos in sources for each in photos])
        self.texts = list(self.known.numbers)
        steps = sum(map(self.steps, range(config.epochs)))
        if not steps:
            raise DataError(
                f"a batch of {self.together} photos is more than the {sum(self.sizes)} there are: "
                "make batch_size smaller"
            )
        self.total_steps = min(steps, config.max_steps or steps)
        self.sentences = embedded(self.texts, clip.sentences.to(clip.device), console)
        self.features, whole = self.filled(clip, console)
        # Those that are trained on are left out of the batches that they would be in.
        broken = set() if whole else set(filter(self.is_broken, self.known.photos))
        self.broken = [
            Skipped(each.photo.name, "broken image") for each in self.known.photos if each in broken
        ]
        self.held_out = [
            [each for each in photos if each not in broken] for photos in sources[len(trained) :]
        ]

    @property
    def together(self) -> int:
        """Photos of one step, of all processes."""
        return self.config.batch_size * self.accelerator.num_processes

    def steps(self, epoch: int) -> int:
        """Changes of the weights in one epoch, of whole batches: the loss of a smaller one is
        another."""
        return epoch_size(self.sizes, self.weights, epoch) // self.together

    def is_broken(self, photo: PhotoTexts) -> bool:
        view = View(photo.photo, 0)
        return bool(self.features.missing([view])) and self.features.get(view) is None

    def filled(self, clip: HybridClip, console: Console) -> tuple[FeatureCache, bool]:
        """The stem's features of all views of the photos, and whether all photos could be read. A
        DataError if there is no room."""
        config, accelerator = self.config, self.accelerator
        views = [View(each.photo, 0) for each in self.known.photos]
        for number in range(1, config.contrast.views):
            views += [View(each.photo, number) for each in self.known.photos[: sum(self.sizes)]]
        cache = FeatureCache(
            config.cache_folder,
            clip.stem,
            stem_config(config.contrast.model),
            int(config.cache_gb * 1e9),
        )
        rank, world = accelerator.process_index, accelerator.num_processes
        own = cache.fill(views, accelerator.device, console, rank, world)
        report = together(gather_object([own]))
        console.print(str(report))
        if report.left_out:
            raise DataError(
                f"the features of {report.left_out:,} views have no room in the "
                f"{config.cache_gb:g} GB of cache_gb: make it more, or contrast.views fewer"
            )
        return cache, not report.broken

    def training_batches(self, epoch: int, from_step: int) -> DataLoader:
        """The batches of this process from a step of an epoch on."""
        config = self.config
        order = epoch_order(self.sizes, self.weights, config.seed, epoch)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        size = self.together
        batches = [
            (f"{config.seed}/{epoch}", range(step * size + rank, (step + 1) * size, world), order)
            for step in range(from_step, len(order) // size)
        ]
        return DataLoader(
            MadeWhenAsked(self.batch, batches),
            batch_size=None,
            num_workers=config.workers,
            worker_init_fn=ignore_signals,
            # Its own, as in `EpochSamples.loader`: a resumed run has one start more.
            generator=torch.Generator(),
        )

    def batch(self, seed: str, places: Sequence[int], order: Sequence[int]) -> ClipBatch:
        """The photos at these places of an epoch's order, each in a view that is drawn, with texts
        that are drawn, whichever process has it; a photo that cannot be read is left out."""
        contrast, known = self.config.contrast, self.known
        photos, tokens, texts = [], [], []
        for place in places:
            number, generator = order[place], random.Random(f"{seed}/{place}")
            own = known.own[number]
            drawn = generator.sample(own, min(contrast.texts, len(own)))
            view = View(known.photos[number].photo, generator.randrange(contrast.views))
            if view.mirrored and any(map(SIDE.search, (self.texts[text] for text in drawn))):
                # What is said of left and right would be wrong.
                view = View(view.photo, view.number - 1)
            found = self.features.get(view)
            if found is not None:
                photos.append(number)
                tokens.append(found)
                texts += drawn
        if not photos:
            raise DataError(f"no photo of a batch can be read, such as {view.name}")
        chosen = torch.tensor(texts)
        return ClipBatch(torch.tensor(photos), torch.stack(tokens), chosen, self.sentences[chosen])

    def measured(self, clip: HybridClip, photos: list[PhotoTexts]) -> dict[str, float]:
        """Scores of held-out photos, in percent: retrieval of those with captions, zero-shot
        accuracy of those with boxes."""
        scores: dict[str, float] = {}
        captioned = [each for each in photos if each.captions]
        if captioned:
            texts = list({text: None for each in captioned for text in each.captions})
            right = np.array([[text in each.captions for text in texts] for each in captioned])
            scores |= retrieval(self.similarity(clip, captioned, texts), right)
        labelled = [each for each in photos if each.classes]
        if labelled:
            names = sorted({name for each in labelled for name in each.classes})
            right = np.array([[name in each.classes for name in names] for each in labelled])
            scores |= zero_shot(self.similarity(clip, labelled, [*map(class_text, names)]), right)
        return scores

    def similarity(
        self, clip: HybridClip, photos: list[PhotoTexts], texts: list[str]
    ) -> np.ndarray:
        """Cosines (N, M) of photos and texts."""
        sentences = self.sentences[[self.known.numbers[text] for text in texts]]
        text_embeddings = normalize(clip.text(sentences.to(clip.device)), dim=-1)
        found = []
        for first in range(0, len(photos), 256):
            views = [View(each.photo, 0) for each in photos[first : first + 256]]
            tokens = torch.stack([self.features.get(view) for view in views])
            embeddings = normalize(clip.image(tokens.to(clip.device)), dim=-1)
            found.append((embeddings @ text_embeddings.T).float().cpu())
        return torch.cat(found).numpy()


class MadeWhenAsked(Dataset):
    """Results of a function for each of some arguments."""

    def __init__(self, make: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
        self.make, self.arguments = make, arguments

    def __len__(self) -> int:
        return len(self.arguments)

    def __getitem__(self, at: int) -> Any:
        return self.make(*self.arguments[at])


class ClipRun(Loop):
    """See `Loop`."""

    epochs: ClipEpochs

    def step(self, together: list[ClipBatch], stopping: bool, began: float, waited: float) -> bool:
        at, rate = self.state.at, self.set_rate()
        batch = together[0].to(self.accelerator.device)
        own = torch.tensor([len(batch.photos), int(stopping)], device=self.accelerator.device)
        photos, stop = self.accelerator.reduce(own, "sum").tolist()
        loss = self.network(partial(self.loss, batch=batch))
        self.accelerator.backward(loss)
        norm = self.clip_gradients()
        # Each process has the loss of all of them.
        loss = loss.item()
        self.update(loss, norm)
        clamp_scale(self.model.logit_scale)
        self.log.step(
            step=at.step,
            epoch=at.epoch,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            scale=self.model.scale.item(),
            tokens=photos * self.model.stem.num_tokens,
            images=photos,
            seconds=perf_counter() - began,
            waited=waited,
        )
        return stop > 0

    def loss(self, clip: HybridClip, batch: ClipBatch) -> Tensor:
        """Of all processes' photos and texts."""
        at_once = self.config.contrast.at_once or max(len(batch.photos), len(batch.texts))
        photos = gather(encode_in_chunks(clip.image, batch.stem_tokens, at_once=at_once))
        texts = gather(encode_in_chunks(clip.text, batch.sentences, at_once=at_once))
        numbers = gather(batch.photos).tolist(), gather(batch.texts).tolist()
        right = self.epochs.known.right(*numbers).to(photos.device)
        logits = similarities(photos, texts, clip.logit_scale, clip.logit_bias)
        return (clip_loss if clip.activation == "softmax" else sigmoid_loss)(logits, right)

    def train_mode(self) -> None:
        self.network.train()

    def answer(self) -> None:
        """It says nothing."""

    @torch.no_grad()
    def validate(self) -> None:
        """Retrieval on held-out photos with captions, zero-shot accuracy on those with boxes; keeps
        the checkpoint that has the best mean of both, or without such photos the last."""
        at, epochs, scores = self.state.at, self.epochs, {}
        with self.state.average.applied():
            self.network.eval()
            for source, photos in zip(self.config.validation or [], epochs.held_out, strict=True):
                found = epochs.measured(self.model, photos)
                of = "/".join(Path(source.path).parts[-2:])
                scores |= {f"{of} {name}": value for name, value in found.items()}
            self.train_mode()
            if scores:
                self.log.scores(at.step, scores)
            score = sum(scores.values()) / max(1, len(scores))
            if -score < at.best or not scores:
                at.best = -score
                trained = self.state.trained_tensors()
                if self.accelerator.is_main_process:
                    save_hybrid(self.model.config, trained, self.config.output / "checkpoint")
        self.accelerator.wait_for_everyone()

"""Vision-feature cache: a frozen tower gives the same patch tokens in every epoch, so each photo is
encoded once, whatever it is called and whichever run needs it."""

import hashlib
import json
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import disk_usage
from time import perf_counter
from typing import Any, Literal, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from train.feature_cost import FillReport, decide
from train.feature_store import FeatureStore
from vlm.config import VisionConfig
from vlm.data.photos import FilePhoto, Photo, RowPhoto, TarPhoto, digest
from vlm.errors import DataError, ImageError
from vlm.images import load_image
from vlm.sources import cache_dir
from vlm.tower import VisionTower

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 64
"""Photos stored together: the disk may take as long to confirm as a small batch to be encoded."""


@dataclass(frozen=True)
class _Prepared:
    """A photo on its way to the tower: found by its digest, broken, or pixel values."""

    photo: Photo
    stamp: tuple[str, str] | None
    digest: bytes = b""
    broken: str | None = None
    pixel_values: Tensor | None = None


class FeatureCache:
    """Patch tokens of photos on the disk, by the photos' content.

    Can be pickled and sent to loader workers, where `get` works and `fill` does not.

    Args:
        folder: the cache of this one tower; None is a folder of its own in this project's cache
            folder, beside those of other towers.
        tower: the frozen vision tower.
        config: what it was built from.
        max_bytes: bound of the features on the disk, see `FeatureStore`.
        dtype: they are stored in: float16, or bfloat16 where they go beyond its range.

    Raises:
        DataError: `folder` is of another tower or of something else, damaged, or not to be written.
    """

    def __init__(
        self,
        folder: Path | None,
        tower: VisionTower,
        config: VisionConfig,
        max_bytes: int,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.tower: VisionTower | None = tower
        description = describe(tower, config, dtype)
        root = folder or cache_dir() / "features"
        if folder is None:
            key = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
            folder = root / key.hexdigest()[:32]
        shape = (tower.num_tokens, tower.width)
        self.store = FeatureStore(folder, root, description, shape, dtype, max_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "tower": None}

    def get(self, photo: Photo) -> Tensor | None:
        """Patch tokens (N, D) of a photo, a view of the memory-mapped file; None if they are not
        there, or the photo is not.

        Raises:
            DataError: the cache is damaged.
        """
        try:
            number = self.store.number_of(self._seen(photo) or digest(photo))
        except ImageError:
            return None
        return None if number is None else self.store.read(number)

    def missing(self, photos: Iterable[Photo]) -> int:
        """How many of the photos have no features, as far as can be told without reading them."""
        return sum(not self._is_there(photo) for photo in dict.fromkeys(photos))

    def fill(
        self,
        photos: Iterable[Photo],
        device: torch.device,
        console: Console,
        rank: int = 0,
        world: int = 1,
    ) -> FillReport:
        """Encodes the photos whose features are not there, as long as there is room.

        Args:
            photos: may come more than once.
            device: where the tower is.
            console: of the progress bar.
            rank: this process takes each `world`-th photo from this one on; the others' are there
                when they are done, too.
            world: number of processes that fill together.

        Raises:
            DataError: the disk refuses, or features do not fit the dtype.
        """
        began = perf_counter()
        own = list(dict.fromkeys(photos))[rank::world]
        absent = [photo for photo in own if not self._is_there(photo)]
        found, encoded, left_out = len(own) - len(absent), 0, 0
        broken: dict[str, str] = {}
        batch: dict[bytes, _Prepared] = {}
        stamps: list[tuple[str, str, bytes]] = []
        # A CPU is busy with the tower: more threads would only take turns with it.
        threads = min(16, os.cpu_count() or 1) if device.type == "cuda" else 1
        with ThreadPoolExecutor(threads) as executor:
            prepared = ahead(executor, self._prepare, _own_order(absent), AT_ONCE)
            bar = track(prepared, "Encoding photos", len(absent), console=console, transient=True)
            for left, one in zip(range(len(absent) - 1, -1, -1), bar, strict=True):
                if one.broken is not None:
                    broken[one.photo.name] = one.broken
                else:
                    if one.stamp is not None:
                        stamps.append((*one.stamp, one.digest))
                    if one.pixel_values is None or one.digest in batch:
                        found += 1
                    else:
                        batch[one.digest] = one
                # Stamps too are put away before they pile up.
                if len(batch) == AT_ONCE or len(stamps) >= 1000 or not left:
                    refused = self.store.add(self._encode(batch, device), stamps)
                    encoded += len(batch) - refused
                    batch, stamps = {}, []
                    if refused:
                        left_out = refused + left
                        break
        size = (found + encoded) * self.store.record_bytes
        return FillReport(encoded, found, left_out, broken, perf_counter() - began, size)

    def decide(
        self,
        mode: Literal["auto", "on", "off"],
        photos: Sequence[Photo],
        passes: float,
        rate: float | None = None,
    ) -> tuple[bool, str]:
        """Whether to fill it for these photos, and a line that says why, see `decide`."""
        return decide(
            mode,
            missing=self.missing(photos),
            photo_bytes=self.store.record_bytes,
            free_bytes=disk_usage(self.store.folder).free,
            max_bytes=self.store.max_bytes - self.store.data_bytes,
            passes=passes,
            rate=rate,
        )

    def _is_there(self, photo: Photo) -> bool:
        seen = self._seen(photo)
        return seen is not None and self.store.number_of(seen) is not None

    def _seen(self, photo: Photo) -> bytes | None:
        stamp = stamp_of(photo)
        return stamp and self.store.digest_of(*stamp)

    def _prepare(self, photo: Photo) -> _Prepared:
        # Before it is read: if it changes meanwhile, its stamp is not that of the new bytes.
        stamp = stamp_of(photo)
        try:
            data = photo.data()
            found = hashlib.sha256(data).digest()
            if self.store.number_of(found) is not None:
                return _Prepared(photo, stamp, found)
            pixel_values = self.tower.preprocessing(load_image(data))
            return _Prepared(photo, stamp, found, pixel_values=pixel_values)
        except ImageError as error:
            reason = str(error).removeprefix("cannot read image bytes: ")
            reason = reason.removeprefix(f"cannot read {photo.name!r}: ")
            return _Prepared(photo, stamp, broken=reason)

    @torch.no_grad()
    def _encode(self, batch: dict[bytes, _Prepared], device: torch.device) -> dict[bytes, Tensor]:
        if not batch:
            return {}
        pixel_values = torch.stack([one.pixel_values for one in batch.values()])
        # Large batches fill a GPU; on a CPU they only leave its cache.
        parts = pixel_values.split(AT_ONCE if device.type == "cuda" else 8)
        tokens = torch.cat([self.tower(part.to(device)) for part in parts])
        stored = tokens.to(self.store.dtype)
        whole = stored.isfinite().flatten(1).all(1)
        for one, features, fits in zip(batch.values(), tokens, whole.tolist(), strict=True):
            if not fits:
                raise DataError(
                    f"patch tokens of {one.photo.name!r} reach {features.abs().max():.3g}, which "
                    f"{_name(self.store.dtype)} does not hold: cache them in bfloat16 or not at all"
                )
        return dict(zip(batch, stored.cpu(), strict=True))


def describe(tower: VisionTower, config: VisionConfig, dtype: torch.dtype) -> dict[str, Any]:
    """All that the features depend on but the photos, by names that a user knows."""
    weights = hashlib.sha256()
    for name, tensor in tower.state_dict().items():
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        weights.update(tensor.cpu().flatten().view(torch.uint8).numpy())
    return {
        "source": config.source,
        "revision": config.revision,
        "layers": config.layers,
        "select": config.select,
        **asdict(tower.preprocessing),
        "tokens": tower.num_tokens,
        "width": tower.width,
        "dtype": _name(dtype),
        "weights": weights.hexdigest(),
    }


def stamp_of(photo: Photo) -> tuple[str, str] | None:
    """Name and version of a photo that is not read for it: while both are the same, so are its
    bytes. None if there is nothing to tell it by. Both are ASCII, whatever bytes a path has."""
    try:
        match photo:
            case FilePhoto(path=path):
                status = path.stat()
                return _escaped(os.path.abspath(path)), f"{status.st_size} {status.st_mtime_ns}"
            case TarPhoto(tar=tar, member=member, offset=offset, size=size):
                status = tar.stat()
                version = f"{offset} {size} {status.st_size} {status.st_mtime_ns}"
                return _escaped(f"{os.path.abspath(tar)}:{member}"), version
            case RowPhoto(dataset=dataset, column=column, row=row):
                # `datasets` gives other fingerprints to other rows, in any order of them.
                return _escaped(f"{column} {row} of {dataset._fingerprint}"), ""
    except OSError:
        pass
    return None


def _escaped(name: str) -> str:
    # SQLite takes no bytes that are not UTF-8, and a path may have some.
    return name.encode("unicode_escape").decode("ascii")


def ahead(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    """`map` in threads, in order, at most `depth` results ahead of who takes them."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(executor.submit(function, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _own_order(photos: list[Photo]) -> list[Photo]:
    """Runs of neighbours in an order that each process draws for itself, so that processes which
    fill the same cache rarely encode the same photo at the same time."""
    starts = list(range(0, len(photos), AT_ONCE))
    # Not the generator that training draws from, which a resumed run repeats.
    random.Random().shuffle(starts)
    return [photo for start in starts for photo in photos[start : start + AT_ONCE]]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

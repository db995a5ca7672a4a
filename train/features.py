"""Vision-feature cache: a frozen tower gives the same patch tokens in every epoch, so each photo is
encoded once, whatever it is called and whichever run needs it."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import disk_usage
from time import perf_counter
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from train.feature_file import FeatureFile
from train.views import View
from vlm.config import VisionConfig
from vlm.data.photos import FilePhoto, Photo, RowPhoto, TarPhoto, digest
from vlm.errors import DataError, ImageError
from vlm.images import load_image
from vlm.sources import cache_dir
from vlm.tower import VisionTower

LOOKED_AT = 1000
"""Photos by which it is told how many have features already: to look at a million takes longer than
all else before a run's first step."""

AT_ONCE = 64
"""Photos stored together: the disk may take as long to confirm as a small batch to be encoded."""

Prepared = tuple[Photo, bytes | None, bytes | None, Tensor | None]
"""A photo on its way to the tower; its stamp; its digest, None if it is broken; and its pixel
values, None if its features are there."""


@dataclass(frozen=True)
class FillReport:
    """What `FeatureCache.fill` did: photos encoded, found (also under another name), left out for
    want of room, and broken."""

    encoded: int = 0
    found: int = 0
    left_out: int = 0
    broken: int = 0
    seconds: float = 0.0
    bytes: int = 0

    @property
    def rate(self) -> float | None:
        """Photos encoded in a second; None if none was."""
        return self.encoded / self.seconds if self.encoded else None

    def __str__(self) -> str:
        parts = [f"features: {self.encoded + self.found:,} photos", _size(self.bytes)]
        if self.rate:
            rate = f"{self.rate:,.{0 if self.rate >= 10 else 1}f} photos/s"
            parts.append(f"{self.encoded:,} encoded in {_duration(self.seconds)} ({rate})")
        parts.append(f"{self.found:,} found")
        if self.left_out:
            parts.append(f"{self.left_out:,} left out for want of room")
        if self.broken:
            parts.append(f"{self.broken:,} broken")
        return ", ".join(parts)


def together(reports: Sequence[FillReport]) -> FillReport:
    """The report of processes that filled their shares side by side."""
    return FillReport(
        encoded=sum(report.encoded for report in reports),
        found=sum(report.found for report in reports),
        left_out=sum(report.left_out for report in reports),
        broken=sum(report.broken for report in reports),
        seconds=max(report.seconds for report in reports),
        bytes=sum(report.bytes for report in reports),
    )


class FeatureCache:
    """Patch tokens of photos on the disk, by the photos' content, at most `max_bytes` of one tower.
    Can be pickled and sent to loader workers, where `get` works and `fill` does not.

    Raises:
        DataError: `folder` is of another tower or of something else; here and from every method:
            it is damaged, or the disk refuses.
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
        self.dtype = dtype
        description = describe(tower, config, dtype)
        if folder is None:
            key = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
            folder = cache_dir() / "features" / key.hexdigest()[:32]
        self.file = FeatureFile(folder, description, max_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "tower": None}

    def get(self, photo: Photo) -> Tensor | None:
        """Patch tokens (N, D) of a photo; None if they are not there, or the photo is not."""
        try:
            number = self._number(photo)
            if number is None:
                number = self.file.number(digest(photo))
        except ImageError:
            return None
        return None if number is None else self.file.read(number)

    def missing(self, photos: Sequence[Photo]) -> int:
        """How many of the photos have no features, as far as can be told without reading them; of
        more than `LOOKED_AT`, by the share of so many among them."""
        step = -(-len(photos) // LOOKED_AT) or 1
        seen = dict.fromkeys(photos[::step])
        return min(len(photos), step * sum(self._number(photo) is None for photo in seen))

    def fill(
        self,
        photos: Sequence[Photo],
        device: torch.device,
        console: Console,
        rank: int = 0,
        world: int = 1,
    ) -> FillReport:
        """Encodes the photos whose features are not there, as long as there is room; of `world`
        processes that fill together, each takes a share."""
        began = perf_counter()
        own = range(rank, len(photos), world)
        # Their places: a million photos would fill the memory.
        absent = [at for at in own if self._number(photos[at]) is None]
        found, encoded, left_out, broken = len(own) - len(absent), 0, len(absent), 0
        groups = [absent[start : start + AT_ONCE] for start in range(0, len(absent), AT_ONCE)]
        prepared = self._prepare_ahead(photos, groups, device)
        bar = track(prepared, "Encoding photos", len(groups), console=console, transient=True)
        for group in bar:
            fresh: dict[bytes, tuple[Photo, Tensor]] = {}
            stamps: dict[bytes, bytes] = {}
            for photo, seen, key, ready in group:
                if key is None:
                    broken += 1
                    continue
                if seen is not None:
                    stamps[seen] = key
                if ready is None or key in fresh:
                    found += 1
                else:
                    fresh[key] = photo, ready
            refused = self.file.add(self._encode(fresh, device), stamps)
            encoded += len(fresh) - refused
            left_out -= len(group) - refused
            if refused:
                break
        size = (found + encoded) * self.file.record_bytes
        return FillReport(encoded, found, left_out, broken, perf_counter() - began, size)

    def decide(
        self,
        mode: Literal["auto", "on"],
        photos: Sequence[Photo],
        passes: float,
        rate: float | None = None,
    ) -> tuple[bool, str]:
        """Whether to fill it for these photos, and a line that says why, see `decide`."""
        file, missing = self.file, self.missing(photos)
        free = disk_usage(file.folder).free
        return decide(mode, missing, file.record_bytes, free, file.room, passes, rate)

    def _number(self, photo: Photo) -> int | None:
        seen = stamp(photo)
        return None if seen is None else self.file.number(seen)

    def _prepare_ahead(
        self, photos: Sequence[Photo], groups: list[list[int]], device: torch.device
    ) -> Iterator[list[Prepared]]:
        """Each group prepared, in threads, while the one before it is encoded."""
        # A CPU is busy with the tower: more threads would only take turns with it.
        threads = min(16, os.cpu_count() or 1) if device.type == "cuda" else 1
        with ThreadPoolExecutor(threads) as executor:
            coming: Iterator[Prepared] | None = None
            for group in [*groups, []]:
                ready, coming = coming, executor.map(self._prepare, [photos[at] for at in group])
                if ready is not None:
                    yield list(ready)

    def _prepare(self, photo: Photo) -> Prepared:
        # Before it is read: if it changes meanwhile, its stamp is not that of the new bytes.
        seen = stamp(photo)
        try:
            data = photo.data()
            key = hashlib.sha256(data).digest()
            if self.file.number(key) is not None:
                return photo, seen, key, None
            return photo, seen, key, self.tower.preprocessing(load_image(data))
        except ImageError:
            return photo, seen, None, None

    @torch.no_grad()
    def _encode(
        self, photos: dict[bytes, tuple[Photo, Tensor]], device: torch.device
    ) -> dict[bytes, Tensor]:
        if not photos:
            return {}
        pixel_values = torch.stack([each for _, each in photos.values()])
        # Large batches fill a GPU; on a CPU they only leave its cache.
        parts = pixel_values.split(AT_ONCE if device.type == "cuda" else 8)
        tokens = torch.cat([self.tower(part.to(device)) for part in parts])
        stored = tokens.to(self.dtype).cpu()
        for (photo, _), features, kept in zip(photos.values(), tokens, stored, strict=True):
            if not kept.isfinite().all():
                raise DataError(
                    f"patch tokens of {photo.name!r} reach {features.abs().max():.3g}, which "
                    f"{_name(self.dtype)} does not hold: cache them in bfloat16 or not at all"
                )
        return dict(zip(photos, stored, strict=True))


def describe(tower: VisionTower, config: VisionConfig, dtype: torch.dtype) -> dict[str, Any]:
    """All that the features depend on but the photos."""
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


def stamp(photo: Photo) -> bytes | None:
    """Digest of a photo's name and version, for which it is not read: while it is the same, so are
    the photo's bytes. None if there is nothing to tell it by."""
    try:
        match photo:
            case FilePhoto(path=file) | TarPhoto(tar=file):
                status = file.stat()
                known = (photo, file.absolute(), status.st_size, status.st_mtime_ns)
            case View(photo=whole, number=number):
                known = stamp(whole)
                return known and hashlib.sha256(known + number.to_bytes(4)).digest()
            case RowPhoto(dataset=dataset, column=column, row=row, place=place):
                # `datasets` gives other fingerprints to other rows, in any order of them.
                known = (column, row, place, dataset._fingerprint)
            case _:
                return None
    except OSError:
        return None
    return hashlib.sha256(repr(known).encode()).digest()


def decide(
    mode: Literal["auto", "on"],
    missing: int,
    photo_bytes: int,
    free_bytes: int,
    max_bytes: int,
    passes: float,
    rate: float | None = None,
) -> tuple[bool, str]:
    """Whether a cache is worth its place, and a line that says why. With `auto` it is if it saves
    at least half of the tower's `passes`, which takes two epochs where nothing is cached yet, there
    is room for it, and a tenth of what is free on the disk stays free; `rate` is in photos/s."""
    needed = missing * photo_bytes
    saved = max(0, passes - missing)
    cost = _size(needed)
    saving = f"{saved:,.0f} of {passes:,.0f} passes of the tower"
    if rate:
        cost += f" and {_duration(missing / rate)}"
        saving += f", about {_duration(saved / rate)}"
    against = None
    if mode == "auto" and missing:
        if saved < passes / 2:
            against = f"the run is short, a cache would save {saving}"
        elif needed > max_bytes:
            against = f"they need {cost}, the cache may take {_size(max_bytes)} more (cache_gb)"
        elif needed > 0.9 * free_bytes:
            against = f"they need {cost}, the disk has {_size(free_bytes)} free"
    if against:
        return False, f"no vision features are cached: {against}"
    return True, f"vision features are cached: costs {cost}, saves {saving}"


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

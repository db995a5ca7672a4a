"""`vlm search`: the photos of a folder that are nearest to a text or to another photo.

A photo is encoded once: its embedding stays in a file of the cache folder, one for each folder of
photos and each model, for as long as the photo's size and time are the same.
"""

import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.text import Text

from vlm.chat import clean, notice
from vlm.data.photos import ENDINGS
from vlm.errors import ConfigError, DataError, ImageError, UsageError
from vlm.files import disk, parse_json, write_file
from vlm.garbage import uncollected
from vlm.images import load_image, reference
from vlm.settings import WORDS

if TYPE_CHECKING:
    from vlm.clip import DualEncoder

SHOWN = 10
"""Photos that cannot be read of which the reason is printed; `--json` has all."""

SAVED_EVERY = 60.0
"""Seconds of encoding that a kill may cost."""

Stamp = tuple[str, int, int]
"""A photo's path inside the folder, its size in bytes and its time of change in ns."""


@dataclass
class SearchConfig:
    """Find photos: vlm search FOLDER "a dog on a beach".

    Args:
        folder: of photos, with all folders in it, but none that is hidden or a link.
        text: what to look for.
        model: `embedded`, folder of a CLIP trained here, or folder or hub id of a CLIP, SigLIP or
            SigLIP2 checkpoint.
        like: a photo instead of the text: file, data: or http(s) URL.
        top: how many photos are shown, the nearest first.
        device: such as `cpu` or `cuda:1`; null is CUDA where there is one, else the CPU.
        json: print one JSON object: query, photos (image and score, a cosine) and unreadable
            (image and error).
    """

    folder: Path = field(metadata=WORDS)
    text: str | None = field(default=None, metadata=WORDS)
    model: str = "embedded"
    like: str | None = None
    top: int = 10
    device: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"top must be at least 1, not {self.top}")

    def check(self) -> None:
        """A UsageError if there is not one thing to look for."""
        if (self.text is None) == (self.like is None):
            raise UsageError(
                'say what to look for, one of: a text, "a dog on a beach", or --like PHOTO'
            )
        if self.text is not None and not self.text.strip():
            raise UsageError("the text is empty: say what to look for")


def search(config: SearchConfig) -> None:
    """Prints the photos nearest to the text or photo."""
    sys.stdout.reconfigure(errors="replace")
    notices = Console(stderr=True)
    unreadable: dict[str, str] = {}
    stamps = photos_in(config.folder, unreadable)
    like = None if config.like is None else load_image(config.like)
    with notices.status(Text(f"Loading {config.model}")), uncollected():
        # Imported here because they take seconds, and a missing folder should not.
        from vlm.clip import load_clip

        clip = load_clip(config.model, config.device)
    if like is None:
        query = clip.text_features([config.text])
    else:
        query = clip.image_features(clip.preprocessing.batch([like]).to(clip.device))
    if like is None and clip.too_long([config.text]):
        notice(notices, "the text is too long for the model, its end is not read")
    vectors = encoded(clip, config.folder, stamps, unreadable, notices)
    if not vectors:
        reason = next(iter(unreadable.values()))
        raise DataError(f"none of the photos in {config.folder} can be read: {reason}")
    scores = np.stack(list(vectors.values())) @ query[0].cpu().numpy()
    names = list(vectors)
    nearest = [(names[at][0], scores[at].item()) for at in np.argsort(-scores, kind="stable")]
    tell(config, nearest[: config.top], unreadable, notices)


def photos_in(folder: Path, unreadable: dict[str, str]) -> list[Stamp]:
    """The photos in a folder and below it, in the order of their names; what cannot be looked at
    is added with the reason. A DataError if there are none."""

    def refused(error: OSError) -> None:
        unreadable[os.path.relpath(error.filename, folder)] = f"cannot read it: {error.strerror}"

    # Named by `disk` as every folder that is not there, or is a file.
    with disk(f"cannot search {folder}"), os.scandir(folder):
        pass
    stamps = []
    for path, folders, files in os.walk(folder, onerror=refused):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(path, folder)
        for name in files:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in ENDINGS:
                continue
            relative = name if inside == "." else os.path.join(inside, name)
            try:
                status = os.stat(os.path.join(path, name))
            except OSError as error:
                unreadable[relative] = f"cannot read it: {error.strerror}"
                continue
            stamps.append((relative, status.st_size, status.st_mtime_ns))
    if not stamps and not unreadable:
        endings = ", ".join(sorted(ENDINGS))
        raise DataError(f"no photos in {folder}: none of its files ends in {endings}")
    return sorted(stamps)


def encoded(
    clip: "DualEncoder",
    folder: Path,
    stamps: list[Stamp],
    unreadable: dict[str, str],
    notices: Console,
) -> dict[Stamp, np.ndarray]:
    """Embeddings (D,), float32, of the photos that can be read, from the cache as far as it has
    them; the others are encoded and kept there, those before a Ctrl-C too."""
    from vlm.clip import embeddings

    file = cache_file(clip, folder)
    known = read_cache(file, clip)
    vectors = {stamp: known[stamp] for stamp in stamps if stamp in known}
    fresh = [stamp for stamp in stamps if stamp not in known]
    if not fresh:
        return vectors

    def keep() -> None:
        # Without room for a cache the search goes on.
        try:
            write_cache(file, clip, vectors)
        except DataError as error:
            notice(notices, str(error), "red")

    before, saved = len(vectors), monotonic()
    found = embeddings(clip, [folder / name for name, *_ in fresh])
    bar = track(
        zip(fresh, found, strict=True),
        f"Encoding {len(fresh):,} photos, once",
        len(fresh),
        console=notices,
        transient=True,
        disable=not notices.is_terminal,
    )
    try:
        for stamp, (_, features) in bar:
            if isinstance(features, ImageError):
                unreadable[stamp[0]] = str(features)
                continue
            vectors[stamp] = features.numpy()
            if monotonic() - saved > SAVED_EVERY:
                keep()
                saved = monotonic()
    finally:
        if len(vectors) > before:
            keep()
    return vectors


def cache_file(clip: "DualEncoder", folder: Path) -> Path:
    """Where the embeddings of a folder's photos by one model are."""
    from vlm.sources import cache_dir

    key = hashlib.sha256(os.fsencode(folder.resolve()) + b"\0" + clip.fingerprint.encode())
    return cache_dir() / "search" / f"{key.hexdigest()[:32]}.safetensors"


def read_cache(file: Path, clip: "DualEncoder") -> dict[Stamp, np.ndarray]:
    """The embeddings in a cache file; none if there is no file. A DataError for one of another
    model, or one that is damaged."""
    from safetensors import safe_open

    if not file.exists():
        return {}
    remedy = "; delete it, and the photos are encoded anew"
    with disk(f"cannot read {file}", DataError, remedy), safe_open(file, "numpy") as opened:
        if (opened.metadata() or {}).get("model") != clip.fingerprint:
            raise DataError(f"{file} has the embeddings of another model: move it elsewhere")
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    stamps = parse_json(str(file), tensors["stamps"].tobytes())
    return {tuple(stamp): row for stamp, row in zip(stamps, tensors["embeddings"], strict=True)}


def write_cache(file: Path, clip: "DualEncoder", vectors: dict[Stamp, np.ndarray]) -> None:
    """Writes embeddings and stamps, whole; see `read_cache`."""
    from filelock import FileLock
    from safetensors.numpy import save

    tensors = {
        "embeddings": np.stack(list(vectors.values())),
        # Not in the header, whose size safetensors limits.
        "stamps": np.frombuffer(json.dumps(list(vectors)).encode(), np.uint8),
    }
    content = save(tensors, {"model": clip.fingerprint})
    with disk(f"cannot write {file}", DataError, "; VLM_CACHE names another place for it"):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Two searches of a folder may end together.
        with FileLock(f"{file}.lock"):
            write_file(file, content)


def tell(
    config: SearchConfig,
    nearest: list[tuple[str, float]],
    unreadable: dict[str, str],
    notices: Console,
) -> None:
    """Prints the photos found, and which could not be read."""
    photos = [(os.path.join(config.folder, name), score) for name, score in nearest]
    if config.json:
        found: dict[str, Any] = {
            "query": config.text or reference(config.like),
            "photos": [{"image": image, "score": score} for image, score in photos],
            "unreadable": [
                {"image": os.path.join(config.folder, name), "error": error}
                for name, error in unreadable.items()
            ],
        }
        print(json.dumps(found))
    else:
        for image, score in photos:
            print(f"{score:6.3f}  {clean(image)}")
    sys.stdout.flush()
    if unreadable:
        notice(notices, f"{len(unreadable):,} could not be read:", "red")
        for name, error in list(unreadable.items())[:SHOWN]:
            notice(notices, f"  {error if name in error else f'{name}: {error}'}")
        if len(unreadable) > SHOWN:
            notice(notices, f"  and {len(unreadable) - SHOWN} others; --json has all")

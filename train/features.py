"""Vision-feature cache: a frozen tower gives the same patch tokens in every epoch, so they are
computed once and read from the disk, memory-mapped."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from vlm.atomic import make_once
from vlm.config import VisionConfig
from vlm.errors import DataError, ImageError
from vlm.images import load_image
from vlm.tower import VisionTower


class FeatureCache:
    """Patch tokens of a list of images, float16, on disk.

    Args:
        tower: the frozen vision tower.
        config: what it was built from; part of the cache's key.
        images: paths of the photos.
        root: folder for caches; this one is a folder in it, named by the hash of the tower's
            config, weights and preprocessing and of every photo's bytes, so that a changed photo
            or tower is another cache.
        device: where the tower runs.

    Raises:
        ImageError: a photo that cannot be read.
        DataError: the cache folder is not whole.
    """

    def __init__(
        self,
        tower: VisionTower,
        config: VisionConfig,
        images: list[Path],
        root: Path,
        device: torch.device,
    ) -> None:
        # Large batches fill a GPU; on a CPU they only leave its cache.
        batch_size = 64 if device.type == "cuda" else 8
        unique = list(dict.fromkeys(images))
        self._index = {image: number for number, image in enumerate(unique)}
        key = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
        shape = (len(unique), tower.num_tokens, tower.width)
        key.update(repr((tower.preprocessing, shape)).encode())
        for name, tensor in tower.state_dict().items():
            key.update(name.encode())
            key.update(tensor.cpu().flatten().view(torch.uint8).numpy())
        for image in unique:
            key.update(digest(image))

        def build(folder: Path) -> None:
            features = np.lib.format.open_memmap(
                folder / "features.npy", mode="w+", dtype=np.float16, shape=shape
            )
            starts = range(0, len(unique), batch_size)
            console = Console(stderr=True)
            for start in track(starts, "Encoding photos", console=console, transient=True):
                photos = [load_image(image) for image in unique[start : start + batch_size]]
                pixel_values = tower.preprocessing.batch(photos).to(device)
                features[start : start + len(photos)] = tower(pixel_values).half().cpu().numpy()
            features.flush()

        folder = make_once(root / key.hexdigest()[:32], build)
        try:
            self._features = np.load(folder / "features.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} is damaged: delete it ({error})") from error

    def __getitem__(self, images: list[Path]) -> Tensor:
        """Patch tokens (I, N, D), float16, of the images in this order."""
        return torch.from_numpy(self._features[[self._index[image] for image in images]])


def digest(image: Path) -> bytes:
    """SHA-256 of a photo's file.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        with image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ImageError(f"cannot read {str(image)!r}: {error.strerror}") from error

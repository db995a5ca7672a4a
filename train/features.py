"""Vision-feature cache: a frozen tower gives the same patch tokens in every epoch, so they are
computed once and read from the disk, memory-mapped."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from vlm.config import VisionConfig
from vlm.errors import DataError
from vlm.images import load_image
from vlm.vision import VisionTower
from vlm.weights import make_once


class FeatureCache:
    """Patch tokens of a list of images, float16, on disk.

    Args:
        tower: the frozen vision tower.
        config: what it was built from; part of the cache's key.
        images: paths of the photos.
        root: folder for caches; this one is a folder in it, named by the hash of the tower, its
            preprocessing and every photo's bytes, so a changed photo or tower is another cache.
        device: where the tower runs.
        batch_size: photos in one pass.

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
        batch_size: int = 32,
    ) -> None:
        unique = list(dict.fromkeys(images))
        self._index = {image: number for number, image in enumerate(unique)}
        key = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
        key.update(repr(tower.preprocessing).encode())
        for image in unique:
            key.update(hashlib.sha256(image.read_bytes()).digest())
        shape = (len(unique), tower.num_tokens, tower.width)

        def build(folder: Path) -> None:
            features = np.lib.format.open_memmap(
                folder / "features.npy", mode="w+", dtype=np.float16, shape=shape
            )
            starts = range(0, len(unique), batch_size)
            for start in track(starts, description="Encoding photos", transient=True):
                photos = [load_image(image) for image in unique[start : start + batch_size]]
                pixel_values = tower.preprocessing.batch(photos).to(device)
                features[start : start + len(photos)] = tower(pixel_values).half().cpu().numpy()
            features.flush()

        folder = make_once(root / key.hexdigest()[:32], build)
        self._features = np.load(folder / "features.npy", mmap_mode="r")
        if self._features.shape != shape:
            raise DataError(f"{folder} holds {self._features.shape}, not {shape}: delete it")

    def __getitem__(self, images: list[Path]) -> Tensor:
        """Patch tokens (I, N, D), float16, of the images in this order."""
        return torch.from_numpy(self._features[[self._index[image] for image in images]])

"""Views of photos: random parts of them, every other one mirrored. There are so many of each, and a
view is always the same, so that a frozen stem sees it once and its features are kept."""

import hashlib
import io
import random
from dataclasses import dataclass

from train.augment import view
from vlm.data.photos import Photo, decode


@dataclass(frozen=True)
class View:
    """A photo like others, of which view 0 is all of it."""

    photo: Photo
    number: int

    @property
    def name(self) -> str:
        return f"{self.photo.name}, view {self.number}" if self.number else self.photo.name

    @property
    def mirrored(self) -> bool:
        return self.number % 2 == 1

    def data(self) -> bytes:
        data = self.photo.data()
        if not self.number:
            return data
        generator = random.Random(hashlib.sha256(data).digest() + self.number.to_bytes(4))
        encoded = io.BytesIO()
        part = view(decode(self.photo), self.mirrored, generator)
        part.save(encoded, "JPEG", quality=95, subsampling=0)
        return encoded.getvalue()

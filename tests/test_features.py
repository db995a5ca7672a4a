"""Feature cache: what the tower gives, computed once for the same photos and the same tower."""

from pathlib import Path

import pytest
import torch

from tests import tiny
from train.features import FeatureCache
from vlm.config import VisionConfig
from vlm.errors import DataError, ImageError
from vlm.tower import VisionTower


class Setting:
    """A tower that counts its passes, three photos and a folder for caches."""

    def __init__(self, folder: Path) -> None:
        self.tower: VisionTower = tiny.clip_tower()
        self.root = folder / "features"
        self.photos = [folder / f"{number}.png" for number in range(3)]
        for number, photo in enumerate(self.photos):
            tiny.photo(number).save(photo)
        self.passes = 0
        self.tower.register_forward_hook(self.count)

    def count(self, *_: object) -> None:
        self.passes += 1

    def cache(self, photos: list[Path] | None = None, **vision: object) -> FeatureCache:
        config = VisionConfig("tiny", **vision)
        cpu = torch.device("cpu")
        return FeatureCache(self.tower, config, photos or self.photos, self.root, cpu)

    def caches(self) -> list[Path]:
        """The folders that count as whole."""
        return [path for path in self.root.iterdir() if path.suffix not in (".lock", ".partial")]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_features_are_what_the_tower_gives_in_the_order_asked_for(setting: Setting) -> None:
    cache = setting.cache()
    pixel_values = setting.tower.preprocessing.batch([tiny.photo(i) for i in (2, 0, 2)])
    features = cache[[setting.photos[i] for i in (2, 0, 2)]]
    assert features.dtype == torch.float16
    torch.testing.assert_close(features, setting.tower(pixel_values).half())


def test_the_second_use_reads_without_the_tower(setting: Setting) -> None:
    first = setting.cache()[setting.photos]
    passes = setting.passes
    assert passes > 0
    assert torch.equal(setting.cache()[setting.photos], first)
    assert setting.passes == passes


def test_a_photo_named_twice_is_encoded_once(setting: Setting) -> None:
    one = setting.photos[0]
    setting.cache([one, one, one])
    assert setting.passes == 1


def test_other_photos_of_the_same_bytes_share_a_cache(setting: Setting) -> None:
    first = setting.cache()[setting.photos]
    moved = [photo.rename(photo.with_stem(f"moved{photo.stem}")) for photo in setting.photos]
    assert torch.equal(setting.cache(moved)[moved], first)
    assert setting.passes == 1


def test_a_change_of_photo_config_weights_or_order_is_another_cache(setting: Setting) -> None:
    setting.cache()
    setting.cache(resize="pad")
    setting.cache(setting.photos[::-1])
    with torch.no_grad():
        next(setting.tower.parameters()).add_(1)
    setting.cache()
    tiny.photo(9).save(setting.photos[1])
    changed = setting.cache()[setting.photos[1:2]]
    assert len(setting.caches()) == 5
    pixel_values = setting.tower.preprocessing.batch([tiny.photo(9)])
    torch.testing.assert_close(changed, setting.tower(pixel_values).half())


def test_a_broken_photo_is_named_and_leaves_no_cache(setting: Setting) -> None:
    setting.photos[2].write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"cannot read '.*2\.png': not an image"):
        setting.cache()
    assert setting.caches() == []
    tiny.photo(2).save(setting.photos[2])
    setting.cache()
    assert len(setting.caches()) == 1


def test_a_photo_that_is_not_there_is_named(setting: Setting) -> None:
    setting.photos[2].unlink()
    with pytest.raises(ImageError, match=r"cannot read '.*2\.png': No such file or directory$"):
        setting.cache()


def test_a_damaged_cache_says_what_to_delete(setting: Setting) -> None:
    setting.cache()
    (folder,) = setting.caches()
    file = folder / "features.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"^{folder} is damaged: delete it"):
        setting.cache()

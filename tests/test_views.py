"""Views of photos: the photo itself, and parts that are always the same."""

import io
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from tests import tiny
from train.features import stamp
from train.views import View
from vlm.data.photos import FilePhoto, UrlPhoto
from vlm.errors import ImageError


@pytest.fixture
def photo(tmp_path: Path) -> FilePhoto:
    """Bright on its right, wider than high."""
    image = Image.merge("RGB", [Image.linear_gradient("L").rotate(90).resize((120, 60))] * 3)
    image.save(tmp_path / "photo.png")
    return FilePhoto(tmp_path / "photo.png")


def decoded(view: View) -> Image.Image:
    return Image.open(io.BytesIO(view.data()))


def test_view_0_is_the_photo(photo: FilePhoto) -> None:
    whole = View(photo, 0)
    assert whole.data() == photo.data()
    assert (whole.name, whole.mirrored) == (photo.name, False)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_view_is_a_part_and_always_the_same(photo: FilePhoto, number: int) -> None:
    view = View(photo, number)
    assert view.name == f"{photo.name}, view {number}"
    assert view.data() == View(FilePhoto(photo.path), number).data()
    width, height = decoded(view).size
    assert (width, height) != (120, 60)
    assert width <= 120
    assert height <= 60
    assert width * height >= 0.58 * 120 * 60
    others = [View(photo, other) for other in range(4) if other != number]
    assert all(view.data() != other.data() for other in others)


def test_it_is_of_the_bytes_not_of_the_name(photo: FilePhoto, tmp_path: Path) -> None:
    (tmp_path / "copy.png").write_bytes(photo.data())
    assert View(FilePhoto(tmp_path / "copy.png"), 1).data() == View(photo, 1).data()
    (tmp_path / "other.png").write_bytes(photo.data() + b"\0")
    assert View(FilePhoto(tmp_path / "other.png"), 1).data() != View(photo, 1).data()


def test_every_other_one_is_mirrored(photo: FilePhoto) -> None:
    def bright_side(image: Image.Image) -> bool:
        """Whether the right is the brighter one."""
        difference = ImageChops.subtract(image, ImageOps.mirror(image)).convert("L")
        half = image.width // 2
        left, right = difference.crop((0, 0, half, 60)), difference.crop((half, 0, 2 * half, 60))
        return ImageStat.Stat(right).sum > ImageStat.Stat(left).sum

    whole = bright_side(decoded(View(photo, 0)))
    for number in range(1, 6):
        view = View(photo, number)
        assert view.mirrored == (number % 2 == 1)
        assert (bright_side(decoded(view)) != whole) == view.mirrored


def test_a_broken_photo_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no photo")
    view = View(FilePhoto(tmp_path / "broken.png"), 1)
    with pytest.raises(ImageError, match=r"^cannot read '.*broken\.png': "):
        view.data()


def test_views_have_stamps_of_their_own(photo: FilePhoto) -> None:
    stamps = {stamp(photo), *(stamp(View(photo, number)) for number in range(3))}
    assert len(stamps) == 4
    assert None not in stamps
    assert stamp(View(photo, 1)) == stamp(View(photo, 1))
    tiny.photo().save(photo.path)
    assert stamp(View(photo, 1)) not in stamps
    assert stamp(View(UrlPhoto("data:image/png;base64,AAAA"), 1)) is None

"""Preprocessing equals transformers' own image processors, without torchvision."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    DeiTImageProcessorPil,
    LlavaImageProcessorPil,
    Siglip2ImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from tests.tiny import photo
from vlm.preprocess import Preprocessing, read_preprocessing

PROCESSORS = {
    "clip": CLIPImageProcessorPil(),
    "clip-odd": CLIPImageProcessorPil(size={"shortest_edge": 57}, crop_size=33),
    "clip-margin-of-black": CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size=37),
    "siglip": SiglipImageProcessorPil(),
    "llava": LlavaImageProcessorPil(do_pad=True),
    "dinov2": BitImageProcessorPil(size={"shortest_edge": 256}),
    "vit": ViTImageProcessorPil(),
    "deit": DeiTImageProcessorPil(),
}
SHAPES = [(320, 213), (213, 320), (200, 200), (3, 2), (1, 1), (97, 601), (601, 97), (224, 225)]


@pytest.mark.parametrize("name", PROCESSORS)
def test_equals_transformers(name: str) -> None:
    processor = PROCESSORS[name]
    preprocessing = read_preprocessing(processor)
    for shape in SHAPES:
        image = photo(size=shape)
        expected = processor(image, return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(preprocessing(image), expected, rtol=0, atol=1e-6)


def test_batch_stacks_photos_of_any_shape() -> None:
    preprocessing = read_preprocessing(PROCESSORS["clip"])
    images = [photo(size=shape) for shape in SHAPES[:3]]
    batch = preprocessing.batch(images)
    assert batch.shape == (3, 3, 224, 224)
    assert batch.dtype == torch.float32
    assert torch.equal(batch[1], preprocessing(images[1]))


def test_pad_fills_with_the_mean_colour() -> None:
    preprocessing = read_preprocessing(PROCESSORS["clip"], resize="pad")
    pixels = preprocessing(Image.new("RGB", (100, 20), "white"))
    # The mean is 0 after normalisation, up to its rounding to 8 bits.
    assert pixels[:, :80].abs().max() < 0.02
    assert pixels[:, 144:].abs().max() < 0.02
    assert pixels[:, 112].min() > 1.5


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_a_strip_costs_no_more_than_a_photo(resize: str) -> None:
    preprocessing = Preprocessing(32, resize, (0.5,) * 3, (0.5,) * 3)
    for shape in [(1, 60_000), (60_000, 1)]:
        assert preprocessing(photo(size=shape)).shape == (3, 32, 32)


def test_the_crop_of_a_strip_is_its_middle() -> None:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    ramp = np.linspace(0, 255, 2000).astype(np.uint8)
    for pixels in (np.tile(ramp[:, None, None], (1, 40, 3)), np.tile(ramp[:, None], (40, 1, 3))):
        image = Image.fromarray(pixels)
        expected = processor(image, return_tensors="pt").pixel_values[0]
        one_level = 1 / 255 / min(processor.image_std)
        difference = read_preprocessing(processor)(image) - expected
        assert difference.abs().max() < 1.01 * one_level


def test_image_size_scales_the_shortest_edge() -> None:
    preprocessing = read_preprocessing(PROCESSORS["dinov2"], image_size=112)
    assert (preprocessing.size, preprocessing.shortest_edge) == (112, 128)
    assert preprocessing(photo()).shape == (3, 112, 112)


def test_another_way_of_resizing_keeps_the_whole_photo() -> None:
    image = Image.new("RGB", (100, 100), "white")
    image.paste("black", (2, 2, 98, 98))
    for resize in ("squash", "pad"):
        pixels = read_preprocessing(PROCESSORS["dinov2"], resize=resize)(image)
        assert pixels[:, 0, 0].min() > pixels[:, 112, 112].max()


def test_siglip2_counts_patches() -> None:
    processor = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=300)
    preprocessing = read_preprocessing(processor)
    assert (preprocessing.size, preprocessing.resize) == (17 * 16, "squash")


@pytest.mark.parametrize("name", PROCESSORS)
def test_saved_processor_is_read_without_torchvision(name: str, tmp_path) -> None:
    assert importlib.util.find_spec("torchvision") is None
    PROCESSORS[name].save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert read_preprocessing(loaded) == read_preprocessing(PROCESSORS[name])

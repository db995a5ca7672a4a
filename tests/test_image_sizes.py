"""Training at mixed sizes: each batch is what a model built for its size would see."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

import vlm
from tests import tiny, tiny_runs
from train.config import TrainConfig
from train.epochs import Epochs
from train.loss import target_loss
from train.run import train
from vlm.checkpoint import load_tensors
from vlm.config import ProjectorConfig
from vlm.data.read import read_sources
from vlm.errors import ConfigError

SIZES = [32, 48, 64]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return tiny_runs.run_config(tmp_path, image_sizes=SIZES, batch_size=1, epochs=3)


def epochs_of(config: TrainConfig, model: vlm.VisionLanguageModel) -> Epochs:
    sources = read_sources(config.data)
    return Epochs(config, model, Accelerator(cpu=True), sources, [], [])


@pytest.mark.parametrize("reduce", ["none", "shuffle"])
@pytest.mark.parametrize("kind", ["mlp", "resampler"])
def test_the_loss_of_a_batch_is_that_of_a_model_of_its_size(
    config: TrainConfig, kind: str, reduce: str
) -> None:
    parts = replace(config.model, projector=ProjectorConfig(kind=kind, reduce=reduce, queries=5))
    model = vlm.build(parts, "cpu")
    model.save(config.output)
    seen = set()
    for prepared in epochs_of(config, model).training_batches(0, 0):
        size = prepared.batch.images.shape[-1]
        seen.add(size)
        vision = replace(parts.vision, image_size=size)
        of_size = vlm.build(replace(parts, vision=vision), "cpu")
        load_tensors(of_size, config.output / "model.safetensors", of_size.trained)
        with torch.no_grad():
            loss, expected = (each(prepared.batch, target_loss) for each in (model, of_size))
        torch.testing.assert_close(loss, expected)
        assert (prepared.batch.input_ids < 0).sum() == of_size.projector.num_tokens
    assert len(seen) > 1


def test_each_epoch_draws_the_sizes_anew(config: TrainConfig) -> None:
    epochs = epochs_of(config, vlm.build(config.model, "cpu"))

    def sizes(epoch: int, from_step: int = 0) -> list[int]:
        batches = epochs.training_batches(epoch, from_step)
        return [prepared.batch.images.shape[-1] for prepared in batches]

    assert {*sizes(0), *sizes(1), *sizes(2)} == set(SIZES)
    assert sizes(0) != sizes(1)
    assert sizes(1)[3:] == sizes(1, from_step=3)


def test_a_run_answers_at_the_size_of_the_tower(config: TrainConfig) -> None:
    folder = train(config)
    assert vlm.load(folder).chat("What is it?", images=[tiny.photo()], max_tokens=2)
    model = vlm.load(folder)
    assert model.vision.preprocessing.size == tiny.IMAGE_SIZE


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([32, 36], "image size 36 is not a multiple of the tower's 8 pixels a patch: the nearest"),
        ([], "image_sizes names no size: leave it out for the tower's own"),
    ],
)
def test_sizes_that_cannot_be(config: TrainConfig, sizes: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(replace(config, image_sizes=sizes))


def test_tiles_are_no_whole_photos(config: TrainConfig) -> None:
    vision = replace(config.model.vision, tiles=[[1, 2]])
    config = replace(config, model=replace(config.model, vision=vision))
    message = "^image_sizes are of whole photos: leave it or model.vision.tiles out$"
    with pytest.raises(ConfigError, match=message):
        train(config)

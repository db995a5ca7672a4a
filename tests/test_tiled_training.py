"""Training on photos in tiles, of which each sample has as many as its shape needs."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vlm
from tests import tiny, tiny_runs
from tests.data_folders import captions
from train.batch import Batch
from train.config import PreviewConfig, TrainConfig
from train.epochs import longest
from train.loader import EpochSamples, PhotoReader
from train.loss import target_loss
from train.preview import show
from train.run import train
from vlm.data.photos import FilePhoto
from vlm.data.sample import Message, Sample
from vlm.errors import ConfigError
from vlm.model import VisionLanguageModel

TILES = [[1, 2], [2, 1], [2, 2]]
SHAPES = [(80, 30), (30, 80), (64, 64), (40, 30), (400, 1)]
QUESTIONS = ("What is in the picture?",)


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vision_language_model(tiles=TILES)


@pytest.fixture
def epoch(tmp_path: Path, model: VisionLanguageModel) -> EpochSamples:
    """Photos of five shapes with one to three captions each."""
    samples = []
    for number, shape in enumerate(SHAPES):
        file = tmp_path / f"{number}.png"
        tiny.photo(number, shape).save(file)
        texts = captions(*(f"A cat sits on {i} dogs." for i in range(number % 3 + 1)))
        samples.append(Sample(f"line {number}", (FilePhoto(file),), texts, QUESTIONS))
    vision = model.vision
    photos = PhotoReader(vision.preprocessing, None, (16, vision.width), vision.tiles)
    prompt = partial(model.prompt, answer_next=False)
    config = TrainConfig(data=[], row_length=512)
    return EpochSamples(samples, photos, prompt, config, max_length=512, epoch=0)


def batch(epoch: EpochSamples, *places: int, **settings: object) -> Batch:
    epoch = replace(epoch, config=replace(epoch.config, **settings))
    prepared = epoch.collate([epoch[place] for place in places])
    assert not prepared.skipped
    return prepared.batch


def loss(model: VisionLanguageModel, batch: Batch) -> tuple[float, Tensor]:
    """And the gradient of the row break."""
    model.zero_grad()
    found = model(batch, target_loss)
    found.backward()
    return found.item(), model.projector.row_break.grad.clone()


@pytest.mark.parametrize("pack", ["none", "image", "sequence"])
def test_a_batch_is_its_photos_one_by_one(
    model: VisionLanguageModel, epoch: EpochSamples, pack: str
) -> None:
    alone = [loss(model, batch(epoch, place, pack="none")) for place in range(5)]
    # In another order than that of their lengths, by which rows are filled.
    found, gradient = loss(model, batch(epoch, 3, 0, 4, 2, 1, pack=pack))
    assert found == pytest.approx(sum(each for each, _ in alone), rel=1e-5)
    torch.testing.assert_close(gradient, sum(each for _, each in alone), rtol=1e-4, atol=1e-5)


def test_a_batch_without_photos_has_a_gradient(model: VisionLanguageModel) -> None:
    reader = PhotoReader(model.vision.preprocessing, None, (16, 24), model.vision.tiles)
    prompt = partial(model.prompt, answer_next=False)
    none = EpochSamples([], reader, prompt, TrainConfig(data=[]), 512, epoch=0).batch([])
    assert loss(model, none)[1].eq(0).all()


def test_prompts_fit_the_views_of_augmented_photos(epoch: EpochSamples) -> None:
    augmented = replace(epoch, augmented=set(range(5)))
    # One photo comes twice.
    sample = epoch.samples[0]
    talk = (Message("user", (0, 1)), Message("assistant", ("A cat.",)))
    twice = replace(sample, photos=sample.photos * 2, conversations=(talk,))
    augmented = replace(augmented, samples=[*epoch.samples[:4], twice])
    squares = set()
    for number in range(8):
        for place in range(5):
            row = replace(augmented, epoch=number)[place]
            assert [layout.squares for layout in row.prompts[0].layouts] == [
                len(image) for image in row.images
            ]
            squares |= {len(image) for image in row.images}
    assert squares == {3, 5}


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A run on photos of several shapes."""
    config = tiny_runs.run_config(tmp_path)
    for number, shape in enumerate(SHAPES):
        tiny.photo(number, shape).save(tmp_path / "data" / f"{number}.png")
    vision = replace(config.model.vision, tiles=TILES)
    return replace(config, model=replace(config.model, vision=vision))


def test_a_run_learns_row_breaks(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = train(replace(config, epochs=6))
    losses = tiny_runs.metrics(config)
    assert sum(losses[-4:]) < sum(losses[:4])
    assert "no vision features are cached: photos are cut into tiles" in capsys.readouterr().err
    torch.manual_seed(config.seed)
    model = vlm.load(checkpoint, device="cpu")
    assert model.projector.row_break.equal(tiny_runs.weights(config)["projector.row_break"])
    assert model.chat("What is it?", tiny.photo(0, (80, 30)), max_tokens=5)
    # The second stage starts from it.
    second = tiny_runs.elsewhere(
        tiny_runs.instruct(config), start=str(checkpoint), model=vlm.ModelConfig()
    )
    train(second)
    assert "projector.row_break" in tiny_runs.weights(second)


def test_what_tiles_do_not_go_with(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="cache=on holds one square of each photo, not tiles"):
        train(replace(config, cache="on"))
    config.data[0].self_critical = True
    with pytest.raises(ConfigError, match="self_critical draws captions of whole photos: leave"):
        train(replace(config, force=True))


def test_data_are_shown_with_the_tokens_of_each_photo(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {name: getattr(config, name) for name in ("data", "model", "output", "batch_size")}
    show(PreviewConfig(**settings, show=7))
    printed = capsys.readouterr().out
    model = vlm.build(config.model, "cpu")
    for shape in SHAPES:
        (slots,) = model.prompt([image(shape)]).image_slots
        assert f"<image x{len(slots)}>" in printed


def image(shape: tuple[int, int]) -> dict:
    content = [{"type": "image", "image": tiny.photo(0, shape)}, {"type": "text", "text": "What?"}]
    return {"role": "user", "content": content}


def test_as_many_tokens_as_are_asked_for() -> None:
    model = tiny.vision_language_model()
    for positions, asked, expected in (
        (512, None, 512),
        (8192, None, 2048),
        (8192, 4096, 4096),
        (512, 4096, 512),
    ):
        model.language.model.config.max_position_embeddings = positions
        assert longest(TrainConfig(data=[], max_length=asked), model) == expected

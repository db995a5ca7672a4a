"""A model whose photos are cut into tiles: each has as many image tokens as its shape needs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests import tiny
from train.batch import collate
from train.loss import target_loss
from vlm.attention_maps import image_grid
from vlm.config import ModelConfig, ProjectorConfig, VisionConfig, from_json, to_json
from vlm.errors import ConfigError, ImageError
from vlm.model import VisionLanguageModel
from vlm.prefill import shared_prefix
from vlm.vision import load_vision

TILES = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]
WIDE, TALL, SQUARE = tiny.photo(1, (80, 30)), tiny.photo(2, (30, 90)), tiny.photo(3, (64, 64))
QUESTIONS = [
    (WIDE, "What is it?"),
    (WIDE, "A dog?"),
    ([TALL, SQUARE], "Where?"),
    (None, "Two dogs?"),
    (tiny.photo(4, (400, 1)), "What is in the picture?"),
]


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vision_language_model(tiles=TILES)


def talk(*parts: Any) -> list[dict[str, Any]]:
    kinds = ("text" if isinstance(part, str) else "image" for part in parts)
    content = [{"type": kind, kind: part} for kind, part in zip(kinds, parts, strict=True)]
    answer = {"role": "assistant", "content": "A cat."}
    return [{"role": "user", "content": content}, answer]


def test_each_photo_has_the_slots_that_it_needs(model: VisionLanguageModel) -> None:
    prompt = model.prompt(talk(WIDE, TALL, "What?"))
    # 1 x 3 tiles of 4 x 4 patches, of whose rows the photo fills all; 3 x 1, all columns.
    assert [layout.grid for layout in prompt.layouts] == [(1, 3), (3, 1)]
    assert list(map(len, prompt.image_slots)) == [16 + 4 * 11, 16 + 12 * 5]
    assert prompt.squares == len(model.encode_images(prompt.images)) == 8


@pytest.mark.parametrize("projector", ["linear", "shuffle", "pool"])
def test_every_projector_of_tokens_in_places_fits(projector: str) -> None:
    kind = {"kind": "linear"} if projector == "linear" else {"reduce": projector}
    tiled = tiny.vision_language_model(ProjectorConfig(**kind), tiles=TILES)
    prompt = tiled.prompt(talk(SQUARE, "What?"))
    sides = (4, 8) if projector == "linear" else (2, 4)
    assert len(prompt.image_slots[0]) == sides[0] ** 2 + sides[1] * (sides[1] + 1)
    assert torch.isfinite(tiled.logits(talk(SQUARE, "What?"))).all()


def test_an_answer_does_not_depend_on_its_batch(model: VisionLanguageModel) -> None:
    alone = [model.chat(question, images, max_tokens=8) for images, question in QUESTIONS]
    assert len(set(alone)) == len(alone)
    assert model.batch(QUESTIONS, max_tokens=8) == alone
    assert model.batch(QUESTIONS[::-1], batch_size=2, max_tokens=8) == alone[::-1]


def test_a_photo_is_read_once_for_size_and_pixels(
    model: VisionLanguageModel, tmp_path: Path
) -> None:
    file = tmp_path / "photo.png"
    WIDE.save(file)
    prompt = model.prompt(talk(file, "What is it?")[:1])
    file.unlink()
    assert model.batch([(prompt.images, "What is it?")]) == model.batch([(WIDE, "What is it?")])
    unread, answer = model.batch([(str(file), "Where?"), QUESTIONS[0]], errors="return")
    assert isinstance(unread, ImageError)
    assert answer == model.chat(*QUESTIONS[0][::-1])


def test_questions_about_one_photo_share_it(model: VisionLanguageModel) -> None:
    prompts = [model.prompt(talk(WIDE, words)[:1]) for words in ("What?", "Where?")]
    (beginning,), ends, _ = shared_prefix(prompts)
    assert beginning.layouts == prompts[0].layouts
    assert not any(end.layouts for end in ends)


@pytest.mark.parametrize("parts", [("Two dogs?",), (WIDE, "What?"), (tiny.photo(4, (400, 1)),)])
def test_row_breaks_train_whatever_is_in_a_batch(parts: tuple) -> None:
    trained = tiny.vision_language_model(tiles=TILES)
    prompt = trained.prompt(talk(*parts), answer_next=False)
    squares = [trained.vision.see(image) for image in prompt.images] or [torch.zeros(0, 3, 32, 32)]
    trained(collate([prompt], torch.cat(squares)), target_loss).backward()
    assert "projector.row_break" in trained.trained
    gradients = {name: p.grad for name, p in trained.projector.named_parameters()}
    assert all(grad is not None for grad in gradients.values())
    # A strip of 400 x 1 px is less than half a row of tokens: it has only the thumbnail.
    assert bool(gradients["row_break"].any()) == (WIDE in parts)


def test_a_row_break_is_as_large_as_a_word(model: VisionLanguageModel) -> None:
    tiled = tiny.vision_language_model(tiles=TILES)
    tiled.projector.match_scale(torch.randn(2, 16, 24), rms=0.3)
    assert tiled.projector.row_break.square().mean().sqrt().item() == pytest.approx(0.3)


def test_towers_are_loaded_with_their_tiles() -> None:
    tower = load_vision(VisionConfig(tiles=[[2, 2]], resize="auto", image_size=64))
    photo = Image.new("RGB", (128, 128), "white")
    squares = tower.see(photo)
    assert squares.shape == (5, 3, 64, 64)
    assert torch.equal(squares, squares[:1].expand_as(squares))
    assert tower(squares).shape == (5, 4, 1280)


def test_tiles_are_part_of_the_config() -> None:
    config = ModelConfig(VisionConfig(tiles=TILES))
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize("tiles", [[], [[1]], [[1, 2, 3]], [[0, 2]], [[9, 8]]])
def test_what_are_no_grids(tiles: list) -> None:
    with pytest.raises(ConfigError, match=r"vision.tiles must be grids .* at most 64 tiles, such"):
        VisionConfig(tiles=tiles)


@pytest.mark.parametrize(
    ("projector", "select"), [("resampler", "default"), ("mlp", "full"), ("linear", "full")]
)
def test_what_has_no_place_in_rows_is_refused(projector: str, select: str) -> None:
    with pytest.raises(ConfigError, match=r"vision.tiles .* rows, .* no place: use vision.select="):
        tiny.vision_language_model(ProjectorConfig(kind=projector), tiles=TILES, select=select)


def test_what_is_not_defined_for_tiles(model: VisionLanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each place is seen twice, and one map"):
        image_grid(model.projector, model.vision.grid)
    with pytest.raises(
        ConfigError, match=r"vision.tiles cannot be exported: LLaVA's format has one"
    ):
        model.export_llava(tmp_path / "llava")

"""Detectors in the hidden layer: the same function at first, and they know their things."""

import json
from pathlib import Path

import pytest
import torch

import vlm
from tests import tiny
from train.widen import main, widen
from vlm.config import ProjectorConfig
from vlm.errors import CheckpointError, DataError
from vlm.images import load_image
from vlm.things import THINGS

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """A cat, a cup and a rocket, each upright, cropped and mirrored."""
    (tmp_path / "images").mkdir()
    lines = []
    for name, caption in (
        ("chelsea.png", "A cat."),
        ("coffee.png", "A cup."),
        ("rocket.jpg", "A car."),
    ):
        photo = load_image(EXAMPLES / name)
        for number in range(3):
            file = f"{number}_{Path(name).stem}.png"
            photo.crop((9 * number, 0, photo.width, photo.height)).save(tmp_path / "images" / file)
            lines.append({"image": file, "captions": [caption], "split": "train"})
    file = tmp_path / "captions.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return file


def test_the_wider_model_is_the_same_function_and_detects(captions: Path, tmp_path: Path) -> None:
    before = vlm.load("embedded")
    before.save(tmp_path / "before")
    main(tmp_path / "before", tmp_path / "after", [str(captions)])
    after = vlm.load(tmp_path / "after")
    patches = before.vision(before.vision.preprocessing.batch([tiny.photo(0)]))
    torch.testing.assert_close(after.projector(patches), before.projector(patches))

    hidden = before.projector.projection.linear_1.out_features
    projection = after.projector.projection
    assert projection.linear_1.out_features == hidden + len(THINGS)
    photo = after.vision.preprocessing.batch([load_image(EXAMPLES / "chelsea.png")])
    seen = projection.linear_1(after.projector.norm(after.vision(photo)))[0, :, hidden:].mean(dim=0)
    assert list(THINGS)[seen.argmax()] == "cat"


def test_only_an_mlp_has_a_hidden_layer(captions: Path) -> None:
    with pytest.raises(CheckpointError, match="only an MLP projector has a hidden layer to widen"):
        widen(tiny.vision_language_model(ProjectorConfig(kind="linear")), [captions])


def test_captions_without_things_are_refused(captions: Path) -> None:
    line = {"image": "0_coffee.png", "captions": ["A sunny day."], "split": "train"}
    captions.write_text(json.dumps(line))
    with pytest.raises(DataError, match="the captions of 0 of 1 photos name a thing"):
        widen(tiny.vision_language_model(), [captions])

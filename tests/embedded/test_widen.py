"""Detectors in the hidden layer: the same function at first, and they know their things."""

import json
from pathlib import Path

import pytest
import torch

import vlm
from tests import tiny
from train.embedded.imagenet import PREPROCESSING, imagenet_names, imagenet_network
from train.embedded.widen import GAIN, THRESHOLD, main, widen
from vlm.config import ModelConfig, ProjectorConfig
from vlm.data.things import THINGS
from vlm.errors import CheckpointError
from vlm.images import load_image

EXAMPLES = Path(__file__).parents[2] / "examples"


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


def test_the_wider_model_is_the_same_function_and_detects(
    captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = vlm.load("embedded")
    before.save(tmp_path / "before")
    main(tmp_path / "before", tmp_path / "after", [str(captions)])
    told = f"vlm chat PHOTO --model {tmp_path / 'after'}: talks to it\n"
    assert capsys.readouterr().err.endswith(told)
    after = vlm.load(tmp_path / "after")
    patches = before.vision(before.vision.preprocessing.batch([tiny.photo(0)]))
    torch.testing.assert_close(after.projector(patches), before.projector(patches))

    hidden = before.projector.projection.linear_1.out_features
    projection = after.projector.projection
    assert projection.linear_1.out_features == hidden + len(THINGS)
    photo = after.vision.preprocessing.batch([load_image(EXAMPLES / "chelsea.png")])
    seen = projection.linear_1(after.projector.norm(after.vision(photo)))[0, :, hidden:].mean(dim=0)
    assert list(THINGS)[seen.argmax()] == "cat"


@pytest.mark.parametrize("input_norm", [True, False])
def test_classes_are_those_of_the_network(captions: Path, input_norm: bool) -> None:
    config = ModelConfig(projector=ProjectorConfig(kind="mlp", input_norm=input_norm, hidden=8))
    before = vlm.build(config, device="cpu")
    after = widen(before, [captions], by="classes")
    pixel_values = PREPROCESSING.batch([load_image(EXAMPLES / "chelsea.png")])
    patches = before.vision(pixel_values)
    torch.testing.assert_close(after.projector(patches), before.projector(patches))
    assert after.config.projector.hidden == 8 + 1000

    seen = after.projector.projection.linear_1(after.projector.norm(patches))[0, :, 8:].mean(dim=0)
    logits = imagenet_network()(pixel_values)[0]
    if input_norm:
        names = list(imagenet_names().values())
        assert names[seen.argmax()].plain == "a cat"
        assert torch.corrcoef(torch.stack([seen, logits]))[0, 1] > 0.9
    else:
        torch.testing.assert_close(seen / GAIN + THRESHOLD["classes"], logits)


def test_classes_need_the_features_of_their_network(captions: Path) -> None:
    with pytest.raises(CheckpointError, match="the classifier reads the patch tokens of effic"):
        widen(tiny.vision_language_model(), [captions], by="classes")


def test_only_an_mlp_has_a_hidden_layer(captions: Path) -> None:
    linear = tiny.vision_language_model(ProjectorConfig(kind="linear"))
    with pytest.raises(CheckpointError, match="only an MLP projector has a hidden layer to widen"):
        widen(linear, [captions], by="things")


def test_a_checkpoint_is_not_written_over(captions: Path) -> None:
    with pytest.raises(CheckpointError, match="is there already: choose another output folder"):
        main("embedded", captions.parent, [str(captions)])

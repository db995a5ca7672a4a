"""Vision towers from transformers models: tiny, with random weights, one of each family."""

import copy
import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2VisionConfig,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
    SwinConfig,
    ViTConfig,
)
from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

from tests.tiny import clip_config, clip_tower, photo, preprocessing
from vlm.config import VisionConfig
from vlm.errors import ConfigError, WeightsError
from vlm.preprocess import Preprocessing
from vlm.tower import VisionTower
from vlm.vision import TransformerTower, load_vision, warn_of_grid

SIZES = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 8}
SQUARE = {**SIZES, "image_size": 32}
STAGES = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 4,
    "depths": [1, 1, 1],
    "num_heads": [1, 2, 4],
    "window_size": 2,
}
FAMILIES: dict[str, tuple[PreTrainedConfig, int]] = {
    "clip": (CLIPVisionConfig(**SQUARE, intermediate_size=32), 1),
    "siglip": (SiglipVisionConfig(**SQUARE, intermediate_size=32), 0),
    "siglip2": (Siglip2VisionConfig(**SIZES, intermediate_size=32, num_patches=16), 0),
    "dinov2": (Dinov2Config(**SQUARE), 1),
    "dinov2_with_registers": (Dinov2WithRegistersConfig(**SQUARE, num_register_tokens=4), 5),
    "dinov3": (DINOv3ViTConfig(**SQUARE, intermediate_size=32, num_register_tokens=4), 5),
    "vit": (ViTConfig(**SQUARE, intermediate_size=32), 1),
    "deit": (DeiTConfig(**SQUARE, intermediate_size=32), 2),
    "swin": (SwinConfig(**STAGES), 0),
    "swin_absolute": (SwinConfig(**STAGES, use_absolute_embeddings=True), 0),
}
"""A config of each family, and how many special tokens it has."""


def model_of(name: str) -> PreTrainedModel:
    """With weights large enough that every part of the model shows in its output."""
    torch.manual_seed(0)
    model = AutoModel.from_config(copy.deepcopy(FAMILIES[name][0])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def tower_of(
    name: str, layers: list[int], select: str = "default", size: int = 32
) -> TransformerTower:
    return TransformerTower(model_of(name), preprocessing(size), layers, select)


def pixels(size: int = 32) -> Tensor:
    return preprocessing(size).batch([photo(0), photo(1)])


@torch.no_grad()
def hidden_states(name: str, pixel_values: Tensor) -> tuple[Tensor, ...]:
    """What transformers gives, of the whole model, its positions interpolated."""
    model = model_of(name)
    inputs = {"pixel_values": pixel_values}
    if name == "siglip2":
        side = pixel_values.shape[-1] // 8
        patches = [convert_image_to_patches(image.numpy(), 8) for image in pixel_values]
        inputs = {
            "pixel_values": torch.stack([torch.from_numpy(p) for p in patches]),
            "pixel_attention_mask": torch.ones(2, side**2, dtype=torch.long),
            "spatial_shapes": torch.tensor([[side, side]] * 2),
        }
    elif "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        inputs["interpolate_pos_encoding"] = True
    return model(**inputs, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_transformers_hidden_states(name: str) -> None:
    states = hidden_states(name, pixels())
    special = FAMILIES[name][1]
    several = [-1, -2] if name.startswith("swin") else [-1, 1, -2]
    for layers in ([-2], [-1], [0], [1], several):
        expected = torch.cat([states[layer][:, special:] for layer in layers], dim=-1)
        tower = tower_of(name, layers)
        tokens = tower(pixels())
        torch.testing.assert_close(tokens, expected)
        assert tokens.shape[1:] == (tower.num_tokens, tower.width)
        assert tower.grid[0] * tower.grid[1] == tower.num_tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_full_keeps_the_special_tokens(name: str) -> None:
    tower = tower_of(name, [-2], select="full")
    torch.testing.assert_close(tower(pixels()), hidden_states(name, pixels())[-2])
    assert tower.num_tokens == 16 + FAMILIES[name][1]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_patch_has_its_token_row_by_row(name: str) -> None:
    tower = tower_of(name, [0])
    patch = tower.preprocessing.size // tower.grid[1]
    for row, column in ((0, 0), (0, 1), (2, 3)):
        changed = pixels()
        changed[..., row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 1
        change = (tower(changed) - tower(pixels()))[0].abs().amax(dim=-1)
        assert change.nonzero().flatten().tolist() == [row * tower.grid[1] + column]


@pytest.mark.parametrize("size", [16, 40, 48, 64])
@pytest.mark.parametrize("name", FAMILIES)
def test_another_size_gives_transformers_tokens(name: str, size: int) -> None:
    tower = tower_of(name, [-2], size=size)
    expected = hidden_states(name, pixels(size))[-2][:, FAMILIES[name][1] :]
    tokens = tower(pixels(size))
    torch.testing.assert_close(tokens, expected)
    assert tower.grid == (size // 8, size // 8)
    assert tokens.shape == (2, (size // 8) ** 2, tower.width)


@pytest.mark.parametrize("name", ["clip", "siglip", "vit", "dinov2", "dinov3"])
def test_its_own_size_may_leave_pixels_over(name: str) -> None:
    """As SigLIP so400m has it: 27 patches of 14 pixels in 384."""
    config = copy.deepcopy(FAMILIES[name][0])
    config.image_size = 36
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        states = model(pixels(36), output_hidden_states=True).hidden_states
    tower = TransformerTower(model, preprocessing(36), [-2])
    assert tower.grid == (4, 4)
    torch.testing.assert_close(tower(pixels(36)), states[-2][:, FAMILIES[name][1] :])


def test_its_own_size_has_room_for_a_patch() -> None:
    config = CLIPVisionConfig(**{**SQUARE, "image_size": 7})
    with pytest.raises(ConfigError, match=r"image size 7 is not a multiple .*: the least is 8$"):
        TransformerTower(AutoModel.from_config(config), preprocessing(7), [-2])


def warning_of(tower: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """What making a tower tells on stderr."""
    warn_of_grid.cache_clear()
    capsys.readouterr()
    tower()
    return capsys.readouterr().err


@pytest.mark.parametrize("name", FAMILIES)
def test_a_grid_far_over_the_trained_one_warns(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in (16, 32, 48):
        assert warning_of(lambda size=size: tower_of(name, [-2], size=size), capsys) == ""
    told = warning_of(lambda: tower_of(name, [-2], size=56), capsys)
    if name in ("siglip2", "dinov3", "swin"):
        assert told == ""
    else:
        side = 28 if name == "swin_absolute" else 7
        trained = 16 if name == "swin_absolute" else 4
        assert f"image size 56 makes {side} x {side} patches" in told
        assert f"positions at {trained} x {trained}: accuracy falls; take a smaller" in told
        assert told.count("\n") == 1


def test_siglip2_was_trained_at_1024_patches(capsys: pytest.CaptureFixture[str]) -> None:
    assert warning_of(lambda: tower_of("siglip2", [-2], size=48 * 8), capsys) == ""
    assert "at 32 x 32" in warning_of(lambda: tower_of("siglip2", [-2], size=49 * 8), capsys)


def test_a_large_grid_warns_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert warning_of(lambda: tower_of("clip", [-2], size=64), capsys)
    tower_of("clip", [-2], size=64)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16(name: str, size: int) -> None:
    tokens = tower_of(name, [-2], size=size).to(torch.bfloat16)(pixels(size))
    assert tokens.dtype == torch.bfloat16
    assert tokens.isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_behind_the_deepest_are_removed(name: str) -> None:
    tower = tower_of(name, [1] if name.startswith("swin") else [0, 1])
    assert len(tower.model.get_submodule(tower.family.layers)) == 1
    assert len(model_of(name).get_submodule(tower.family.layers)) >= 3


def test_the_head_and_pooler_are_removed() -> None:
    assert not hasattr(tower_of("siglip", [-2]).model, "head")
    assert tower_of("vit", [-2]).model.pooler is None


def test_is_frozen_and_stays_in_eval_mode() -> None:
    tower = clip_tower()
    torch.nn.Sequential(tower).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower(pixels().requires_grad_()).requires_grad


def test_dinov3_gives_the_same_tokens_while_training() -> None:
    """In train mode each pass would jitter its coordinates."""
    tower = tower_of("dinov3", [-1])
    expected = tower(pixels())
    torch.nn.Sequential(tower).train()
    assert torch.equal(tower(pixels()), expected)
    tower.model.train()
    assert not torch.equal(tower(pixels()), expected)


def wake(tower: VisionTower, count: int | str) -> dict[str, torch.nn.Parameter]:
    """Lets the last layers train; gives what does."""
    for module in tower.last_layers(count):
        module.requires_grad_()
    return {name: p for name, p in tower.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("count", [1, 2, "all"])
@pytest.mark.parametrize("name", FAMILIES)
def test_last_layers_have_gradients_one_and_all(name: str, count: int | str) -> None:
    tower = tower_of(name, [-2], size=48)
    awake = wake(tower, count)
    before = tower_of(name, [-2], size=48)(pixels(48))
    tokens = tower(pixels(48))
    torch.testing.assert_close(tokens.detach(), before)
    tokens.square().sum().backward()
    assert all(parameter.grad is not None for parameter in awake.values())
    depth = len(tower.model.get_submodule(tower.family.layers))
    asleep = range(0 if count == "all" else depth - count)
    for layer in range(depth):
        block = tower.model.get_submodule(f"{tower.family.layers}.{layer}")
        trains = {parameter.requires_grad for parameter in block.parameters()}
        assert trains == {layer not in asleep}


def test_all_but_the_norm_behind_the_last_layer() -> None:
    tower = clip_tower()
    asleep = {name for name, _ in tower.named_parameters()} - wake(tower, "all").keys()
    assert asleep == {"model.post_layernorm.weight", "model.post_layernorm.bias"}


def test_a_layer_that_is_only_called_does_not_train() -> None:
    tower = clip_tower(layers=[0])
    with pytest.raises(ConfigError, match=r"last 1 layers of the vision tower .*: it has 0$"):
        tower.last_layers(1)
    awake = wake(tower, "all")
    tower(pixels()).sum().backward()
    assert all(parameter.grad is not None for parameter in awake.values())


def test_frozen_layers_keep_no_activations() -> None:
    tower = clip_tower()
    wake(tower, 1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        tower(pixels())
        one = len(kept)
        wake(tower, "all")
        tower(pixels())
    assert 0 < one < (len(kept) - one) / 2


def test_no_gradients_where_the_caller_wants_none() -> None:
    tower = clip_tower()
    wake(tower, "all")
    with torch.no_grad():
        assert not tower(pixels()).requires_grad


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"last 3 layers of the vision tower .*: it has 2$"):
        clip_tower().last_layers(3)


def test_a_layer_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"layer 4 is not in -4\.\.3: the tower has 3 layers"):
        clip_tower(layers=[-2, 4])
    with pytest.raises(ConfigError, match=r"layer -5 is not in -4\.\.3"):
        clip_tower(layers=[-5])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        (-8, "least is 8"),
        (0, "least is 8"),
        (7, "least is 8"),
        (36, "nearest are 32 and 40"),
        (63, "nearest are 56 and 64"),
    ],
)
def test_a_size_the_patches_do_not_divide(name: str, size: int, nearest: str) -> None:
    message = (
        f"^image size {size} is not a multiple of the tower's 8 pixels a patch: the {nearest}$"
    )
    with pytest.raises(ConfigError, match=message):
        tower_of(name, [-2], size=size)


def test_swin_needs_a_window_at_its_last_layer() -> None:
    message = r"^image size 8 is too small: windows of swin's 3 layers need 16 pixels or more$"
    with pytest.raises(ConfigError, match=message):
        tower_of("swin", [-1], size=8)
    assert tower_of("swin", [-2], size=8)(pixels(8)).isfinite().all()


def test_swin_stages_of_different_resolution() -> None:
    with pytest.raises(ConfigError, match="different resolution cannot be concatenated"):
        tower_of("swin", [0, -1])


def two_tower_clip() -> CLIPModel:
    torch.manual_seed(0)
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=50, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=clip_config())).eval()


def two_tower_siglip() -> SiglipModel:
    torch.manual_seed(0)
    text = SiglipTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=50, bos_token_id=1, eos_token_id=2, projection_size=16,
    )  # fmt: skip
    vision = copy.deepcopy(FAMILIES["siglip"][0])
    return SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()


def clip_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)


def save_clip(folder: Path) -> CLIPVisionModel:
    """A vision-only folder."""
    torch.manual_seed(0)
    model = CLIPVisionModel(clip_config()).eval()
    model.save_pretrained(folder)
    clip_processor().save_pretrained(folder)
    return model


def load(folder: Path, **config: object) -> VisionTower:
    return load_vision(VisionConfig(source=str(folder), **config))


@pytest.mark.parametrize("kind", ["clip", "clip-vision-only", "siglip"])
def test_load_gives_the_tokens_of_the_saved_model(kind: str, tmp_path: Path) -> None:
    special = 0 if kind == "siglip" else 1
    processor = clip_processor()
    if kind == "clip-vision-only":
        vision = save_clip(tmp_path)
    else:
        whole = two_tower_clip() if kind == "clip" else two_tower_siglip()
        if kind == "siglip":
            processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
        whole.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        vision = whole.vision_model
    pixel_values = processor(photo(), return_tensors="pt").pixel_values
    with torch.no_grad():
        states = vision(pixel_values, output_hidden_states=True).hidden_states
    tower = load(tmp_path)
    tokens = tower(tower.preprocessing.batch([photo()]))
    torch.testing.assert_close(tokens, states[-2][:, special:])


def test_load_dinov3_without_torchvision(tmp_path: Path) -> None:
    model = model_of("dinov3")
    model.save_pretrained(tmp_path)
    # As published; reading it with transformers' own class needs torchvision.
    settings = {
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "crop_size": None,
        "do_center_crop": None,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 2,
        "size": {"height": 32, "width": 32},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    tower = load(tmp_path)
    assert tower.preprocessing == Preprocessing(
        32, "squash", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), Image.Resampling.BILINEAR, 32
    )
    torch.testing.assert_close(tower(pixels()), hidden_states("dinov3", pixels())[-2][:, 5:])


def test_load_with_choices(tmp_path: Path) -> None:
    save_clip(tmp_path)
    config = VisionConfig(
        source=str(tmp_path), layers=[-1, -3], select="full", image_size=48, resize="pad"
    )
    tower = load_vision(config, torch.bfloat16)
    assert (tower.preprocessing.size, tower.preprocessing.resize) == (48, "pad")
    tokens = tower(tower.preprocessing.batch([photo()]))
    assert tokens.shape == (1, 37, 48)
    assert tokens.dtype == torch.bfloat16


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent': no such file or folder"):
        load(tmp_path / "absent")


def test_a_folder_without_a_preprocessor_file(tmp_path: Path) -> None:
    save_clip(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match=r"image processor.*\(check the folder\)$"):
        load(tmp_path)


def test_a_text_only_model(tmp_path: Path) -> None:
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no vision tower of type 'llama'; there are clip_vis"):
        load(tmp_path)


def test_damaged_weights(tmp_path: Path) -> None:
    save_clip(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"^cannot load .*\(check the folder\)$"):
        load(tmp_path)


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    save_clip(tmp_path)
    change_config(tmp_path, num_hidden_layers=5)
    with pytest.raises(WeightsError, match=r"lacks 16 of .*, encoder\.layers\.3\.\S+ for one"):
        load(tmp_path)
    assert load(tmp_path, layers=[3]).num_tokens == 16


def test_weights_of_another_shape(tmp_path: Path) -> None:
    save_clip(tmp_path)
    change_config(tmp_path, patch_size=16)
    with pytest.raises(WeightsError, match=r"in another shape, embeddings\.patch_embedding"):
        load(tmp_path)

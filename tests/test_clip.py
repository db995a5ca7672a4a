"""Dual encoders equal transformers' own; what is none of them is told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, Siglip2Model, SiglipModel

from tests import tiny
from tests.clip_folders import clip_folder, reference, siglip2_folder, siglip_folder
from train.contrastive import clamp_scale, clip_loss, similarities
from vlm.clip import PretrainedDualEncoder, embeddings, load_clip
from vlm.errors import ConfigError, ImageError, VLMError, WeightsError

LONG = "a very long text " * 20
TEXTS = ["a cat", "A photo of two dogs on the grass.", "What is in the picture?", LONG]
MODELS = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("clip")
    return {
        "clip": clip_folder(root / "clip"),
        "siglip": siglip_folder(root / "siglip"),
        "siglip2": siglip2_folder(root / "siglip2"),
    }


@pytest.fixture
def clip(folders: dict[str, Path]) -> PretrainedDualEncoder:
    return load_clip(str(folders["clip"]), "cpu")


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name: str, folders: dict[str, Path]) -> None:
    clip = load_clip(str(folders[name]), "cpu")
    # SigLIP2's processor keeps the shape of a photo; ours makes it a square, as here all are.
    sizes = [(40, 40), (32, 32)] if name == "siglip2" else [(40, 30), (30, 50), (32, 32)]
    images = [tiny.photo(seed, size) for seed, size in enumerate(sizes)]
    expected = reference(folders[name], MODELS[name], images, TEXTS)
    photos = clip.image_features(clip.preprocessing.batch(images))
    texts = clip.text_features(TEXTS)
    logits, probabilities = clip.logits(photos, texts), clip.probabilities(photos, texts)
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(photos, expected.image_embeds, **close)
    torch.testing.assert_close(texts, expected.text_embeds, **close)
    torch.testing.assert_close(logits, expected.logits_per_image, **close)
    sigmoid = name != "clip"
    assert clip.activation == ("sigmoid" if sigmoid else "softmax")
    wanted = logits.sigmoid() if sigmoid else logits.softmax(dim=-1)
    torch.testing.assert_close(probabilities, wanted, **close)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_patch_is_embedded_as_if_the_last_attention_saw_it_alone(
    name: str, folders: dict[str, Path]
) -> None:
    clip = load_clip(str(folders[name]), "cpu")
    pixel_values = clip.preprocessing.batch([tiny.photo(seed) for seed in range(2)])
    found = clip.patch_features(pixel_values)
    assert found.shape == (2, tiny.PATCHES, clip.image_features(pixel_values).shape[1])
    vision = clip.model.vision_model
    inputs = clip.inputs(pixel_values)
    states = vision(**inputs, output_hidden_states=True)
    for patch in range(tiny.PATCHES):
        if name == "clip":
            # transformers' own last layer, in which CLS is kept from all but the patch.
            mask = torch.zeros(1, 1, tiny.PATCHES + 1, tiny.PATCHES + 1)
            mask[:, :, 0] = -torch.inf
            mask[:, :, 0, 1 + patch] = 0
            last = vision.encoder.layers[-1](states.hidden_states[-2], attention_mask=mask)
            expected = clip.model.visual_projection(vision.post_layernorm(last[:, 0]))
        elif name == "siglip":
            expected = vision.head(states.last_hidden_state[:, patch : patch + 1])
        else:
            mask = torch.zeros(2, tiny.PATCHES, dtype=torch.long)
            mask[:, patch] = 1
            expected = vision.head(states.last_hidden_state, mask)
        close = {"rtol": 0, "atol": 1e-5}
        torch.testing.assert_close(found[:, patch], normalize(expected, dim=-1), **close)


def planted(count: int, generator: torch.Generator, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Noise (N, 3, 32, 32) with a red patch, a blue one or none in turn, where it is, and which of
    them; of the same colour is any other patch with a probability of up to the spread."""
    colours = torch.arange(count) % 3
    places = torch.randint(tiny.PATCHES, (count,), generator=generator)
    share = torch.rand(count, 1, generator=generator) * spread
    on = torch.rand(count, tiny.PATCHES, generator=generator) < share
    on[torch.arange(count), places] = True
    on = on.view(-1, 1, 4, 4).repeat_interleave(tiny.PATCH, 2).repeat_interleave(tiny.PATCH, 3)
    shades = torch.tensor([[2.0, 0, 0], [0, 0, 2], [0, 0, 0]])[colours]
    noise = torch.randn(count, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, generator=generator) * 0.2
    return noise + on * shades[..., None, None], places, colours


def test_after_training_a_planted_patch_is_the_most_similar_to_its_text(
    clip: PretrainedDualEncoder,
) -> None:
    texts = ["red", "blue", "nothing"]
    # In layers before the last one patches may tell one another what they see.
    clip.model.config.vision_config.num_hidden_layers = 1
    torch.manual_seed(0)
    clip.model = model = CLIPModel(clip.model.config).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        pixel_values, _, colours = planted(48, generator, spread=0.6)
        features = clip.image_features(pixel_values), clip.text_features(texts)[colours]
        logits = similarities(*features, model.logit_scale)
        optimizer.zero_grad()
        clip_loss(logits, colours[:, None] == colours).backward()
        optimizer.step()
        clamp_scale(model.logit_scale)
    pixel_values, places, colours = planted(30, generator, spread=0)
    with torch.no_grad():
        patches = clip.patch_features(pixel_values)
        maps = (patches @ clip.text_features(texts)[colours][..., None])[..., 0]
    seen = colours < 2
    assert (maps.argmax(dim=1) == places)[seen].sum() >= 18  # Of 20.


@pytest.mark.parametrize("name", MODELS)
def test_a_text_is_the_same_among_others_and_in_capitals(
    name: str, folders: dict[str, Path]
) -> None:
    clip = load_clip(str(folders[name]), "cpu")
    together = clip.text_features([*TEXTS, *["a dog"] * 70])
    alone = clip.text_features(["A CAT"])
    assert together.shape == (74, alone.shape[1])
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-6)
    assert clip.too_long(TEXTS) == [LONG]


def test_another_image_size_interpolates_positions(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["clip"], tmp_path / "clip")
    file = folder / "preprocessor_config.json"
    processor = json.loads(file.read_text())
    processor |= {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    file.write_text(json.dumps(processor))
    clip = load_clip(str(folder), "cpu")
    pixels = clip.preprocessing.batch([tiny.photo()])
    expected = clip.model.get_image_features(pixels, interpolate_pos_encoding=True)
    found = clip.image_features(pixels)
    unit = expected.pooler_output / expected.pooler_output.norm()
    torch.testing.assert_close(found, unit, rtol=0, atol=1e-5)
    processor |= {"size": {"shortest_edge": 33}, "crop_size": {"height": 33, "width": 33}}
    file.write_text(json.dumps(processor))
    with pytest.raises(ConfigError, match="image size 33 is not a multiple of the patch size 8"):
        load_clip(str(folder))


def test_photos_come_in_order_with_those_that_cannot_be_read(
    clip: PretrainedDualEncoder, tmp_path: Path
) -> None:
    sources = []
    for at in range(20):
        tiny.photo(at).save(tmp_path / f"{at}.png")
        sources.append(tmp_path / f"{at}.png")
    sources[3].write_bytes(b"no photo")
    sources[8:16] = [tmp_path / f"missing{at}.png" for at in range(8)]
    found = list(embeddings(clip, sources))
    assert [source for source, _ in found] == sources
    broken = [at for at, (_, each) in enumerate(found) if isinstance(each, ImageError)]
    assert broken == [3, *range(8, 16)]
    alone = clip.image_features(clip.preprocessing.batch([tiny.photo(19)]))
    torch.testing.assert_close(found[19][1], alone[0], rtol=0, atol=1e-6)


def test_strips_and_single_pixels_have_embeddings(folders: dict[str, Path]) -> None:
    for name in MODELS:
        clip = load_clip(str(folders[name]), "cpu")
        photos = [tiny.photo(size=size) for size in [(1, 1), (1, 4000), (4000, 1)]]
        for _, features in embeddings(clip, photos):
            assert features.norm().item() == pytest.approx(1, abs=1e-5)


def test_other_weights_are_another_model(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["clip"], tmp_path / "clip")
    first = load_clip(str(folder), "cpu").fingerprint
    assert load_clip(str(folder), "cpu").fingerprint == first
    clip_folder(folder, seed=1)
    assert load_clip(str(folder), "cpu").fingerprint != first


def test_what_is_no_dual_encoder_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    def refused(source: Path, error: type[VLMError]) -> str:
        with pytest.raises(error) as raised:
            load_clip(str(source), "cpu")
        return str(raised.value)

    tiny.clip_tower().model.save_pretrained(tmp_path / "tower")
    told = refused(tmp_path / "tower", ConfigError)
    assert "is of type 'clip_vision_model', no dual encoder of photos and texts" in told
    assert "no such file or folder, nor a hub id" in refused(tmp_path / "none", WeightsError)

    halves = shutil.copytree(folders["clip"], tmp_path / "halves")
    tensors = load_file(halves / "model.safetensors")
    vision = {name: tensor for name, tensor in tensors.items() if "text" not in name}
    save_file(vision, halves / "model.safetensors", {"format": "pt"})
    assert "of the model's tensors or has them in another shape" in refused(halves, WeightsError)

    dumb = shutil.copytree(folders["clip"], tmp_path / "dumb")
    for file in dumb.glob("*token*"):
        file.unlink()
    assert "the tokenizer's vocabulary is missing" in refused(dumb, WeightsError)

    other = shutil.copytree(folders["clip"], tmp_path / "other")
    config = json.loads((other / "tokenizer.json").read_text())
    config["model"]["vocab"] |= {f"more{at}": 600 + at for at in range(9)}
    (other / "tokenizer.json").write_text(json.dumps(config))
    assert "they are not of one model" in refused(other, ConfigError)

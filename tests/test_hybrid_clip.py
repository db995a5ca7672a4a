"""This project's own CLIP: its embeddings by hand, its files, and its image tower as a model's."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, normalize

import vlm
from tests import tiny, tiny_clip
from train.contrastive import clip_loss, similarities
from vlm.cli import main
from vlm.clip import is_dual_encoder, load_clip
from vlm.config import ClipConfig, VisionConfig
from vlm.errors import CheckpointError, ConfigError, VLMError, WeightsError
from vlm.hybrid_clip import HybridClip, hybrid_folder, load_hybrid, save_hybrid
from vlm.hybrid_tower import HybridTower
from vlm.vision import load_vision

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    tiny_clip.sentence_encoder(cache)
    return cache


@pytest.fixture(autouse=True)
def in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_CACHE", str(cache))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(tiny_clip.CONFIG, depth=2)
    return tiny_clip.checkpoint(tmp_path_factory.mktemp("run") / "checkpoint", config=config)


@pytest.fixture(scope="module")
def clip(folder: Path) -> HybridClip:
    return load_hybrid(folder)


@pytest.fixture(scope="module")
def photos(clip: HybridClip) -> Tensor:
    return clip.preprocessing.batch([tiny.photo(0), tiny.photo(1, (70, 90))])


def normed(tokens: Tensor) -> Tensor:
    """Mean 0 and variance 1 of each position's channels."""
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()


def stem_tokens(clip: HybridClip, photos: Tensor) -> tuple[Tensor, Tensor]:
    """The normed maps of the published network, of 16 pixels a position and of 32."""
    towers = (load_vision(VisionConfig(layers=[n], image_size=64)) for n in (11, -1))
    fine, last = (normed(tower(photos)) for tower in towers)
    return fine, last


def test_embeddings_of_photos_by_hand(clip: HybridClip, photos: Tensor) -> None:
    fine, last = stem_tokens(clip, photos)
    vit = clip.image.vit
    weight, bias = vit.embedding.projection.weight.flatten(1), vit.embedding.projection.bias
    patches = linear(torch.cat([fine, last], dim=-1), weight, bias)
    tokens = torch.cat([vit.class_token.expand(2, 1, -1), patches], dim=1)
    tokens = vit.norm_in(tokens + vit.positions)
    for block in vit.blocks:
        parts = linear(block.norm_attention(tokens), *block.attention.query_key_value.parameters())
        query, key, value = (part.view(2, 5, 2, 8).transpose(1, 2) for part in parts.chunk(3, -1))
        seen = (query @ key.mT / 8**0.5).softmax(-1) @ value
        tokens = tokens + block.attention.out(seen.transpose(1, 2).reshape(2, 5, 16))
        hidden = gelu(block.feed_forward[0](block.norm_feed_forward(tokens)))
        tokens = tokens + block.feed_forward[2](hidden)
    class_token = vit.norm_out(tokens[:, 0])
    expected = class_token @ clip.image.head.weight.T + last.mean(1) @ clip.image.stem_head.weight.T
    expected = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(clip.image_features(photos), expected, **CLOSE)


def test_embeddings_of_patches_are_those_of_one_key_in_the_last_attention(
    clip: HybridClip, photos: Tensor
) -> None:
    image, (fine, last) = clip.image, stem_tokens(clip, photos)
    tokens = image.vit.embed(image.maps(torch.cat([fine, last], dim=-1)))
    *front, block = image.vit.blocks
    for each in front:
        tokens = each(tokens)
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    attention.in_proj_weight, attention.in_proj_bias = block.attention.query_key_value.parameters()
    attention.out_proj = block.attention.out
    before = block.norm_attention(tokens)
    found = clip.patch_features(photos)
    assert found.shape == (2, 4, 8)
    for patch in range(4):
        alone = before[:, [1 + patch]]
        seen = tokens[:, :1] + attention(before[:, :1], alone, alone, need_weights=False)[0]
        seen = seen + block.feed_forward(block.norm_feed_forward(seen))
        expected = image.head(image.vit.norm_out(seen[:, 0])) + image.stem_head(last[:, patch])
        torch.testing.assert_close(found[:, patch], normalize(expected, dim=-1), **CLOSE)


def test_embeddings_of_texts_by_hand(clip: HybridClip) -> None:
    texts = ["a red cat", "a photo of two dogs", "a photo of a dog", "red"]
    encoder, rows = clip.sentences, []
    for text in texts:
        tokens = encoder.tokenizer(text, return_tensors="pt")
        sentence = encoder.model(**tokens).last_hidden_state[0].mean(dim=0)
        sentence = sentence / sentence.norm() * 384**0.5
        hidden = gelu(clip.text.hidden[0](sentence))
        row = clip.text.linear.weight @ sentence + clip.text.hidden[3](hidden)
        rows.append(row / row.norm())
    torch.testing.assert_close(clip.text_features(texts), torch.stack(rows), **CLOSE)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_texts_that_are_too_long(clip: HybridClip) -> None:
    fits = " ".join(["red"] * tiny_clip.LONGEST)
    assert clip.too_long(["a cat", fits, f"{fits} cat"]) == [f"{fits} cat"]
    features = clip.text_features([fits, f"{fits} cat"])
    torch.testing.assert_close(features[0], features[1])


@pytest.mark.parametrize(
    ("activation", "scale", "bias"), [("sigmoid", 10.0, -10.0), ("softmax", 1 / 0.07, 0.0)]
)
def test_begins_with_the_published_temperature(activation: str, scale: float, bias: float) -> None:
    clip = HybridClip(replace(tiny_clip.CONFIG, activation=activation))
    assert (clip.scale.item(), clip.bias.item()) == (pytest.approx(scale), bias)
    assert clip.logit_bias.requires_grad == (activation == "sigmoid")
    logits = clip.logits(torch.eye(8)[:2], torch.eye(8)[:3])
    assert logits.tolist() == [
        pytest.approx([scale * (row == column) + bias for column in range(3)]) for row in range(2)
    ]


def test_what_is_saved_is_loaded(folder: Path, photos: Tensor, tmp_path: Path) -> None:
    clip = load_hybrid(folder)
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    assert not any(module.training for module in clip.modules())
    state = clip.state_dict()
    trained = {name: state[name] for name in clip.trained}
    assert load_file(folder / "model.safetensors").keys() == trained.keys()
    assert not any(name.startswith("stem.") for name in trained)
    save_hybrid(clip.config, trained, tmp_path / "copy")
    again = load_hybrid(tmp_path / "copy")
    assert again.config == clip.config
    assert again.fingerprint == clip.fingerprint
    assert again.image_features(photos).equal(clip.image_features(photos))


def test_other_weights_have_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    others = load_hybrid(tiny_clip.checkpoint(tmp_path / "other", seed=1))
    assert others.fingerprint not in ("", load_hybrid(folder).fingerprint)


def test_another_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "letter.txt").touch()
    with pytest.raises(CheckpointError, match=r"own is there already and has no clip_config\.json"):
        tiny_clip.checkpoint(tmp_path / "own")
    assert (tmp_path / "own" / "letter.txt").exists()


def test_is_found_also_by_its_run(folder: Path, photos: Tensor, tmp_path: Path) -> None:
    for source in (folder, folder.parent):
        assert hybrid_folder(str(source)) == folder
        assert is_dual_encoder(str(source))
        found = load_clip(str(source), "cpu")
        assert isinstance(found, HybridClip)
        assert found.image_features(photos).shape == (2, 8)
    assert hybrid_folder(str(tmp_path)) is None
    assert hybrid_folder("openai/clip-vit-base-patch32") is None
    assert not is_dual_encoder("embedded")


def test_the_commands_take_it(
    clip: HybridClip, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.photo(0).save(tmp_path / "photo.png")
    told = ["--model", str(folder.parent), "--device", "cpu", "--json"]
    labels = ["red cat", "blue dog"]
    photo = str(tmp_path / "photo.png")
    assert main(["classify", photo, "--labels", ",".join(labels), *told]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    image = clip.image_features(clip.preprocessing.batch([tiny.photo(0)]))
    texts = clip.text_features([f"a photo of {label}" for label in labels])
    expected = dict(zip(labels, clip.probabilities(image, texts)[0].tolist(), strict=True))
    assert scores == pytest.approx(expected, rel=1e-4)
    assert main(["search", str(tmp_path), "a photo of red cat", *told]) == 0
    (found,) = json.loads(capsys.readouterr().out)["photos"]
    assert found == {"image": photo, "score": pytest.approx((image @ texts[0]).item(), abs=1e-5)}


def rewritten(**values: object) -> Callable[[Path], None]:
    """Changes the config."""

    def damage(folder: Path) -> None:
        file = folder / "clip_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return damage


def without_bias(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["logit_bias"]
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda folder: (folder / "clip_config.json").write_text("{"),
            "cannot read .*_config.json",
        ),
        (rewritten(colour="red"), r"cannot read .*clip_config\.json: .*colour"),
        (
            rewritten(heads=3),
            r"cannot read .*clip_config\.json: 3 heads do not divide a width of 1",
        ),
        (rewritten(depth=0), r"cannot read .*clip_config\.json: depth must be at least 1, not 0"),
        (rewritten(image_size=65), "image size 65 is not a multiple of the tower's 32 pixels"),
        (
            rewritten(depth=1),
            r"safetensors does not fit the model: .*blocks\.1.* is not in the mod",
        ),
        (rewritten(embedding=9), r"safetensors does not fit the model: .* and 4 more$"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot read .*: No such file"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"no"),
            "cannot read .*safetenso",
        ),
        (without_bias, "does not fit the model: logit_bias is missing$"),
    ],
)
def test_a_damaged_checkpoint_is_named(
    damage: Callable[[Path], object], told: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "damaged")
    damage(tmp_path / "damaged")
    with pytest.raises((CheckpointError, ConfigError), match=told) as raised:
        load_clip(str(tmp_path / "damaged"), "cpu")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"embedding": -1}, "embedding must be at least 1, not -1"),
        ({"heads": 5}, "5 heads do not divide a width of 256"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
    ],
)
def test_a_config_that_cannot_be_built(fields: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
        ClipConfig(**fields)


def test_a_damaged_sentence_encoder_is_named(
    cache: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cache, tmp_path / "cache")
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "all-minilm-l6-v2" / "model.safetensors").write_bytes(b"no")
    clip = load_hybrid(folder)
    with pytest.raises(
        WeightsError, match=r"^cannot load '.*all-minilm-l6-v2': .*check the folder"
    ):
        clip.text_features(["a cat"])


def test_as_a_vision_tower(clip: HybridClip, folder: Path, photos: Tensor) -> None:
    tower = load_vision(VisionConfig(str(folder.parent)))
    assert isinstance(tower, HybridTower)
    assert (tower.grid, tower.num_tokens) == ((2, 2), 4)
    assert tower.width == 16 + 4 * 112 + 1280
    tokens = tower(photos)
    assert tokens.shape == (2, 4, tower.width)
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    image, stem = clip.image, torch.cat(stem_tokens(clip, photos), dim=-1)
    torch.testing.assert_close(tokens[..., 16:], stem, rtol=1e-3, atol=1e-3)
    entering = image.vit.blocks[0](image.vit.embed(image.maps(stem)))[:, 1:]
    torch.testing.assert_close(tokens[..., :16], entering, rtol=1e-3, atol=1e-3)
    assert load_vision(VisionConfig(str(folder)), torch.bfloat16)(photos).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("count", "blocks"), [(1, ["0."]), ("all", ["0.", "class_token", "embedding.", "positions"])]
)
def test_its_last_layers_have_gradients_one_and_all(
    count: int | str, blocks: list[str], folder: Path, photos: Tensor
) -> None:
    tower = load_vision(VisionConfig(str(folder)))
    for module in tower.last_layers(count):
        module.requires_grad_()
    tower.train()
    tokens = tower(photos)
    assert tokens.equal(tower(photos))  # without dropout
    tokens[..., :16].square().sum().backward()
    trained = {name: p for name, p in tower.named_parameters() if p.requires_grad}
    assert all(parameter.grad is not None for parameter in trained.values())
    assert not any(name.startswith("stem.") for name in trained)
    assert all(any(part in name for name in trained) for part in blocks)
    with pytest.raises(ConfigError, match="the last 2 layers of the vision tower cannot train"):
        tower.last_layers(2)


def test_as_a_vision_tower_it_has_one_output(folder: Path) -> None:
    with pytest.raises(VLMError, match=r"one output: leave out vision\.layers$"):
        load_vision(VisionConfig(str(folder), layers=[-1]))


def test_as_a_vision_tower_it_has_any_size(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tower = load_vision(VisionConfig(str(folder), image_size=192, resize="crop"))
    assert (tower.grid, tower.num_tokens) == ((6, 6), 36)
    assert (tower.preprocessing.size, tower.preprocessing.resize) == (192, "crop")
    assert tower(torch.randn(1, 3, 192, 192)).shape == (1, 36, tower.width)
    assert "warning: image size 192 makes 6 x 6 patches" in capsys.readouterr().err
    with pytest.raises(VLMError, match=r"100 is not a multiple .* nearest are 96 and 128"):
        load_vision(VisionConfig(str(folder), image_size=100))


def planted(count: int, generator: torch.Generator, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Stem tokens (N, 9, C) of noise with one thing at a position, another one or none in turn,
    where it is, and which of them; it is at any other position with a probability of up to the
    spread."""
    things = torch.arange(count) % 3
    places = torch.randint(9, (count,), generator=generator)
    on = (
        torch.rand(count, 9, generator=generator)
        < torch.rand(count, 1, generator=generator) * spread
    )
    on[torch.arange(count), places] = True
    channels = torch.zeros(3, 4 * 112 + 1280)
    channels[0, 500:540] = channels[1, 540:580] = 4.0
    noise = torch.randn(count, 9, 4 * 112 + 1280, generator=generator)
    return noise + on[..., None] * channels[things][:, None], places, things


def test_after_training_a_planted_patch_is_the_most_similar_to_its_text() -> None:
    torch.manual_seed(0)
    config = replace(tiny_clip.CONFIG, image_size=96, dropout=0.0, activation="softmax")
    clip = HybridClip(config)
    sentences = clip.sentences(["red", "blue", "the"])
    optimizer = torch.optim.Adam((p for p in clip.parameters() if p.requires_grad), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        tokens, _, things = planted(48, generator, spread=0.6)
        logits = similarities(clip.image(tokens), clip.text(sentences[things]), clip.logit_scale)
        optimizer.zero_grad()
        clip_loss(logits, things[:, None] == things).backward()
        optimizer.step()
    tokens, places, things = planted(48, generator, spread=0)
    with torch.no_grad():
        patches = normalize(clip.image.patches(tokens), dim=-1)
        texts = normalize(clip.text(sentences), dim=-1)
        maps = (patches @ texts[things][..., None])[..., 0]
    seen = things < 2
    assert (maps.argmax(dim=1) == places)[seen].sum() >= 29  # Of 32.


def test_a_clip_and_a_model_that_answers_are_told_apart(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run" / "checkpoint")
    for each in (folder, tmp_path / "run"):
        with pytest.raises(
            CheckpointError, match="is a CLIP, which writes no answers: `vlm classif"
        ):
            vlm.load(each)
    (tmp_path / "model").mkdir()
    with pytest.raises(
        WeightsError, match=r"is no CLIP: it has neither a config\.json, as those of"
    ):
        load_clip(str(tmp_path / "model"))

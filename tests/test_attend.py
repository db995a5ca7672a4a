"""`vlm attend`: one picture of what a model looks at, and a line for each mistake."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny, tiny_clip, tiny_folders
from tests.clip_folders import clip_folder, siglip2_folder, siglip_folder
from tests.test_vision import tower_of
from vlm.attend import (
    LARGE,
    Section,
    as_seen,
    at_width,
    compared,
    heat_map,
    if_defined,
    png,
    tower_maps,
    word_maps,
)
from vlm.cli import main
from vlm.clip import load_clip
from vlm.config import ProjectorConfig, VisionConfig
from vlm.hybrid_clip import HybridClip, save_hybrid
from vlm.loading import build
from vlm.preprocess import Preprocessing
from vlm.tower import VisionTower
from vlm.vision import load_vision

QUESTION = "What is in the picture?"


@pytest.fixture
def photo(tmp_path: Path) -> str:
    tiny.photo().save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_draws_what_the_answer_and_the_tower_look_at(
    photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build(tiny_folders.model_config(tmp_path), device="cpu")
    model.save(tmp_path / "model")
    output = tmp_path / "map.PNG"
    words = [photo, QUESTION, "-o", str(output), "--model", str(tmp_path / "model")]
    assert main(["attend", *words, "--max-tokens", "6", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip()
    assert shown.err.splitlines()[-1] == f"drawn in {output}"
    with Image.open(output) as drawn:
        assert (drawn.format, drawn.mode) == ("PNG", "RGB")
        assert drawn.height > 2 * LARGE


def test_each_word_has_a_map_with_its_share_of_attention() -> None:
    model, photo = tiny.vision_language_model(), tiny.photo()
    (section,) = word_maps(model, photo, photo, QUESTION, "A cat sits.")
    captions = [caption for caption, _ in section.images]
    shares, words = zip(*(caption.split() for caption in captions), strict=True)
    assert words == ("A", "cat", "sits.")
    assert all(0 < float(share.removesuffix("%")) < 100 for share in shares)
    assert {image.width for _, image in section.images} == {LARGE}


def test_the_contact_sheet_has_a_row_for_each_layer_and_a_map_for_each_head() -> None:
    model, photo = tiny.vision_language_model(), tiny.photo()
    whole, *layers = tower_maps(model.vision, photo, photo)
    assert whole.text == "Vision tower: what the CLS token looks at"
    assert [caption for caption, _ in whole.images] == ["attention rollout"]
    assert [layer.text for layer in layers] == ["Layer 1", "Layer 2"]
    for layer in layers:
        assert [caption for caption, _ in layer.images] == ["mean", "head 1", "head 2"]


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_without_a_cls_token_it_says_whose_attention_it_is(name: str) -> None:
    model, photo = tiny.vision_language_model(), tiny.photo()
    model.vision = tower_of(name, [-2])
    whole, *layers = tower_maps(model.vision, photo, photo)
    assert whole.text == "Vision tower: what the mean patch, for there is no CLS token, looks at"
    assert len(layers) == 3


def test_what_is_not_defined_is_a_line_in_its_place() -> None:
    model, photo = tiny.vision_language_model(ProjectorConfig(kind="resampler")), tiny.photo()
    told = "the projector is a resampler: its image tokens are no patches, and where in the photo "
    (words,) = if_defined(word_maps, model, photo, photo, QUESTION, "A cat.")
    assert words.text.startswith(told)
    assert words.images == []
    model = tiny.vision_language_model()
    (empty,) = if_defined(word_maps, model, photo, photo, QUESTION, "")
    assert empty == Section("the answer is empty: there is no word to look for")
    model.vision = tower_of("swin", [-1])
    (swin,) = if_defined(tower_maps, model.vision, photo, photo)
    assert swin.text.startswith("swin looks through shifted windows and has no CLS token: ")


@pytest.mark.parametrize("make", [clip_folder, siglip_folder, siglip2_folder])
def test_a_dual_encoder_shows_how_similar_each_patch_is_to_a_text(
    make: Callable[[Path], Path], photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = make(tmp_path / "clip"), tmp_path / "map.png"
    words = [photo, "a dog", "-o", str(output), "--model", str(folder), "--device", "cpu"]
    assert main(["attend", *words]) == 0
    shown = capsys.readouterr()
    clip = load_clip(str(folder), "cpu")
    pixel_values, dog = clip.preprocessing.batch([tiny.photo()]), clip.text_features(["a dog"])
    whole = (clip.image_features(pixel_values) @ dog.T).item()
    assert shown.out == f"similarity of the whole photo: {whole:.3f}\n"
    assert shown.err.splitlines()[-1] == f"drawn in {output}"
    with Image.open(output) as drawn:
        assert drawn.height > LARGE

    _, (first, *tower) = compared(clip, tiny.photo(), "a dog")
    similarities = clip.patch_features(pixel_values)[0] @ dog[0]
    (_, seen), (caption, heat) = first.images
    assert caption == f"patches, {similarities.min():.3f} to {similarities.max():.3f}"
    expected = heat_map(as_seen(tiny.photo(), clip.preprocessing), similarities.view(4, 4), LARGE)
    assert heat == expected
    assert seen.size == heat.size
    # Of those three, CLIP has a CLS token.
    layers = ["Vision tower: what the CLS token looks at", "Layer 1", "Layer 2"]
    assert [part.text for part in tower] == (layers if make is clip_folder else [])


def test_a_text_that_is_too_long_is_told(
    photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = clip_folder(tmp_path / "clip"), tmp_path / "map.png"
    words = [photo, "a dog " * 50, "-o", str(output), "--model", str(folder), "--device", "cpu"]
    assert main(["attend", *words]) == 0
    assert "the text is too long for the model, its end is not read" in capsys.readouterr().err


def test_a_dual_encoder_refuses_what_is_for_answers(
    photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = clip_folder(tmp_path / "clip"), tmp_path / "map.png"
    words = [photo, "a dog", "-o", str(output), "--model", str(folder), "--max-tokens", "9"]
    assert main(["attend", *words, "--load-in", "4bit"]) == 2
    told = "compares photos and texts and writes no answer: leave out max_tokens, load_in\n"
    assert capsys.readouterr().err.endswith(told)
    assert not output.exists()


def test_heat_is_where_the_weight_is() -> None:
    weights = torch.zeros(2, 3)
    weights[1, 2] = 0.1
    drawn = np.asarray(heat_map(Image.new("RGB", (300, 200), "grey"), weights, 120), dtype=int)
    assert drawn.shape == (80, 120, 3)
    brightness = drawn.sum(axis=-1)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert row >= 40
    assert column >= 80
    assert brightness[:40, :40].max() < brightness.max() / 2


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_map_without_differences_is_dark(value: float) -> None:
    grey = Image.new("RGB", (20, 20), "grey")
    drawn = np.asarray(heat_map(grey, torch.full((2, 2), value), 20))
    assert (drawn == drawn[0, 0]).all()
    assert drawn.max() < 128


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (60, 30)])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_a_photo_of_any_shape_is_shown_as_it_is_seen(size: tuple[int, int], resize: str) -> None:
    preprocessing = Preprocessing(32, resize, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    seen = as_seen(Image.new("RGB", size, (128, 102, 77)), preprocessing)
    width, height = at_width(seen, 120).size
    shape = 1 if resize != "squash" else min(3, max(1 / 3, size[1] / size[0]))
    assert (width, height) == (120, round(120 * shape))
    centre = seen.getpixel((seen.width // 2, seen.height // 2))
    assert all(abs(a - b) <= 1 for a, b in zip(centre, (128, 102, 77), strict=True))


def test_maps_go_on_in_the_next_row_and_long_text_in_the_next_line() -> None:
    tile = ("猫 a caption longer than its image", Image.new("RGB", (500, 30), "red"))
    heights = []
    for text, count in (("a", 1), ("a", 2), ("a", 3), ("a " * 200, 3)):
        with Image.open(io.BytesIO(png([Section(text, [tile] * count)]))) as drawn:
            heights.append(drawn.height)
    assert heights[0] == heights[1] < heights[2] < heights[3]


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["{photo}", QUESTION], 2, "`output` is missing; see vlm attend --help"),
        (["-o", "{folder}/a.png"], 1, "one photo is needed, not 0: vlm attend PHOTO QUESTION"),
        (
            [QUESTION, "-o", "{folder}/a.png"],
            1,
            "one photo is needed, not 0: vlm attend PHOTO QUESTION",
        ),
        (
            ["{photo}", "{photo}", QUESTION, "-o", "{folder}/a.png"],
            1,
            "one photo is needed, not 2: vlm attend PHOTO QUESTION",
        ),
        (
            ["{photo}", "-o", "{folder}/a.png"],
            1,
            "a question is needed: vlm attend PHOTO 'What is this?'",
        ),
        (
            ["{photo}", " ", "-o", "{folder}/a.png"],
            1,
            "the text is empty: vlm attend PHOTO 'What is this?'",
        ),
        (
            ["{folder}/no.jpg", QUESTION, "-o", "{folder}/a.png"],
            1,
            "cannot read '{folder}/no.jpg': No such file or directory",
        ),
        (
            ["{folder}/text.png", QUESTION, "-o", "{folder}/a.png"],
            1,
            "cannot read '{folder}/text.png': not an image, or damaged",
        ),
        (
            ["{photo}", QUESTION, "-o", "{folder}/a.jpg"],
            2,
            "output must end in .png, not '{folder}/a.jpg'",
        ),
        (["{photo}", QUESTION, "-o", ""], 2, "output must end in .png, not '.'"),
        (
            ["{photo}", QUESTION, "-o", "{folder}/no/a.png"],
            1,
            "cannot write {folder}/no/a.png: there is no folder {folder}/no",
        ),
        (
            ["{photo}", QUESTION, "-o", "{photo}/a.png"],
            1,
            "cannot write {photo}/a.png: there is no folder {photo}",
        ),
        (
            ["{photo}", QUESTION, "-o", "{folder}/is.png"],
            1,
            "cannot write {folder}/is.png: it is a folder",
        ),
        (
            ["{photo}", QUESTION, "-o", "{folder}/a.png", "--model", "{folder}/no"],
            1,
            "{folder}/no",
        ),
    ],
)
def test_every_mistake_is_one_line(
    words: list[str],
    status: int,
    told: str,
    photo: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "is.png").mkdir()
    (tmp_path / "text.png").write_text("no image")
    names = {"photo": photo, "folder": str(tmp_path)}
    assert main(["attend", *(word.format(**names) for word in words)]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("vlm: ")
    assert told.format(**names) in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_a_disk_that_refuses_is_one_line(
    photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tiny_folders.model_config(tmp_path), device="cpu").save(tmp_path / "model")
    output = tmp_path / f"{'a' * 300}.png"
    words = [photo, QUESTION, "-o", str(output), "--model", str(tmp_path / "model")]
    assert main(["attend", *words, "--max-tokens", "2", "--device", "cpu"]) == 1
    assert "File name too long" in capsys.readouterr().err.splitlines()[-1]


def own_tower(folder: Path, depth: int) -> VisionTower:
    clip = HybridClip(replace(tiny_clip.CONFIG, depth=depth))
    save_hybrid(clip.config, {name: clip.state_dict()[name] for name in clip.trained}, folder)
    return load_vision(VisionConfig(str(folder)))


def test_a_tower_without_attention_is_told(tmp_path: Path) -> None:
    photo = tiny.photo()
    tower = load_vision(VisionConfig("efficientnet-lite0", image_size=64))
    (network,) = if_defined(tower_maps, tower, photo, photo)
    assert network.text.startswith("the vision tower is a convolutional network: ")
    (alone,) = if_defined(tower_maps, own_tower(tmp_path / "clip", depth=1), photo, photo)
    assert "there is no attention to show" in alone.text


def test_maps_of_our_own_vit(tmp_path: Path) -> None:
    whole, *layers = tower_maps(own_tower(tmp_path / "clip", depth=3), tiny.photo(), tiny.photo())
    assert whole.text == "Vision tower: what the CLS token looks at"
    assert [layer.text for layer in layers] == ["Layer 1", "Layer 2"]

"""Search: the nearest photos, each encoded once, and a line for whatever is wrong."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.numpy import load_file
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from transformers import CLIPModel, CLIPVisionModel

from tests import tiny
from tests.clip_folders import clip_folder, reference
from vlm.cli import main

NAMES = ["a.png", "b.jpg", "below/c.webp", "below/d.PNG"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "search"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "below").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        tiny.photo(seed).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def seen() -> Iterator[list[int]]:
    """How many photos the tower has seen, call by call."""
    counts: list[int] = []

    def count(module: nn.Module, _: tuple, output: Any) -> None:
        if isinstance(module, CLIPVisionModel):
            counts.append(len(output.pooler_output))

    hook = register_module_forward_hook(count)
    yield counts
    hook.remove()


def search(folder: Path, *words: str | Path, model: Path) -> int:
    options = ["--model", str(model), "--device", "cpu"]
    return main(["search", str(folder), *map(str, words), *options])


def found(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    said = json.loads(capsys.readouterr().out)
    return {each["image"]: each["score"] for each in said["photos"]}


def test_a_text_finds_what_transformers_finds(
    folder: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(folder, "two dogs", "--json", model=clip) == 0
    said = json.loads(capsys.readouterr().out)
    images = [Image.open(folder / name).convert("RGB") for name in NAMES]
    expected = reference(clip, CLIPModel, images, ["two dogs"])
    scores = (expected.image_embeds @ expected.text_embeds.T).flatten().tolist()
    ranked = sorted(zip(scores, NAMES, strict=True), reverse=True)
    assert (said["query"], said["unreadable"]) == ("two dogs", [])
    assert [each["image"] for each in said["photos"]] == [str(folder / n) for _, n in ranked]
    assert [e["score"] for e in said["photos"]] == pytest.approx([s for s, _ in ranked], abs=1e-5)
    assert search(folder, "two dogs", "--top", "1", model=clip) == 0
    best, name = ranked[0]
    assert capsys.readouterr().out == f"{best:6.3f}  {folder / name}\n"


def test_a_photo_finds_itself_first(
    folder: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like = folder / "below" / "c.webp"
    assert search(folder, "--like", like, "--json", model=clip) == 0
    first, score = next(iter(found(capsys).items()))
    assert (first, score) == (str(like), pytest.approx(1, abs=1e-5))


def test_only_what_is_new_is_encoded(
    folder: Path, clip: Path, cache: Path, seen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    def again() -> dict[str, float]:
        seen.clear()
        assert search(folder, "two dogs", "--json", model=clip) == 0
        return found(capsys)

    first = again()
    assert (sum(seen), len(first)) == (4, 4)
    assert again() == first
    assert seen == []
    tiny.photo(9).save(folder / "new.png")
    tiny.photo(8, size=(50, 50)).save(folder / "a.png")
    second = again()
    assert (sum(seen), len(second)) == (2, 5)
    assert second[str(folder / "b.jpg")] == first[str(folder / "b.jpg")]
    assert second[str(folder / "a.png")] != first[str(folder / "a.png")]
    os.utime(folder / "b.jpg", (1, 1))
    (folder / "new.png").unlink()
    assert again().keys() == first.keys()
    assert sum(seen) == 1
    (file,) = cache.glob("*.safetensors")
    assert load_file(file)["embeddings"].shape == (4, 16)


def test_what_cannot_be_read_is_told_at_the_end(
    folder: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.jpg").write_bytes(b"no photo")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    (folder / "notes.md").write_text("no photo, and not taken for one")
    (folder / ".hidden.png").write_bytes(b"no photo, and not taken for one")
    for _ in range(2):
        assert search(folder, "two dogs", model=clip) == 0
        said = capsys.readouterr()
        assert said.out.count("\n") == 4
        assert "2 could not be read:\n" in said.err
        assert "gone.png: cannot read it: No such file or directory" in said.err
        assert f"cannot read '{folder}/broken.jpg': not an image, or damaged" in said.err
    assert search(folder, "two dogs", "--json", model=clip) == 0
    unreadable = json.loads(capsys.readouterr().out)["unreadable"]
    assert [each["image"] for each in unreadable] == [
        str(folder / "gone.png"),
        str(folder / "broken.jpg"),
    ]


def test_of_many_that_cannot_be_read_ten_are_printed(
    folder: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for at in range(12):
        (folder / f"broken{at}.png").touch()
    assert search(folder, "two dogs", model=clip) == 0
    assert capsys.readouterr().err.endswith("  and 2 others; --json has all\n")


def test_strips_are_found(folder: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.photo(size=(1, 1)).save(folder / "dot.png")
    tiny.photo(size=(1, 4000)).save(folder / "strip.png")
    assert search(folder, "two dogs", "--json", model=clip) == 0
    assert len(found(capsys)) == 6


def test_ctrl_c_loses_nothing_that_was_encoded(folder: Path, clip: Path, seen: list[int]) -> None:
    for at in range(20):
        tiny.photo(at).save(folder / f"{at}.png")

    def interrupt(module: nn.Module, _: tuple) -> None:
        if isinstance(module, CLIPVisionModel) and len(seen) == 2:
            raise KeyboardInterrupt

    hook = register_module_forward_pre_hook(interrupt)
    assert search(folder, "two dogs", model=clip) == 130
    hook.remove()
    assert seen == [8, 8]
    assert search(folder, "two dogs", model=clip) == 0
    assert seen == [8, 8, 8]


def test_each_model_has_its_own_cache(
    folder: Path,
    clip: Path,
    cache: Path,
    tmp_path: Path,
    seen: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = clip_folder(tmp_path / "other", seed=1)
    for model in (clip, other, clip, other):
        assert search(folder, "two dogs", model=model) == 0
    assert seen == [4, 4]
    capsys.readouterr()
    one, two = sorted(cache.glob("*.safetensors"))
    kept = two.read_bytes()
    shutil.copy(one, two)
    statuses = [search(folder, "two dogs", model=model) for model in (clip, other)]
    assert sorted(statuses) == [0, 1]
    told = f"vlm: {two} has the embeddings of another model: move it elsewhere\n"
    assert capsys.readouterr().err == told
    two.write_bytes(kept[:100])
    statuses = [search(folder, "two dogs", model=model) for model in (clip, other)]
    assert sorted(statuses) == [0, 1]
    error = capsys.readouterr().err
    assert error.startswith(f"vlm: cannot read {two}: ")
    assert error.endswith("; delete it, and the photos are encoded anew\n")
    assert two.read_bytes() == kept[:100]


def test_a_search_goes_on_without_room_for_a_cache(
    folder: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "file"))
    assert search(folder, "two dogs", model=clip) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 4
    assert "cannot write" in said.err
    assert "VLM_CACHE names another place for it" in said.err


def test_a_text_that_is_too_long_is_told(
    folder: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(folder, "very long " * 20, model=clip) == 0
    assert "the text is too long for the model, its end is not read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            ["photos"],
            2,
            'say what to look for, one of: a text, "a dog on a beach", or --like PHOTO',
        ),
        (["photos", "a dog", "--like", "b.jpg"], 2, "say what to look for, one of: "),
        (["photos", " "], 2, "the text is empty: say what to look for"),
        (["photos", "a", "dog"], 2, "unexpected word 'dog'"),
        (["photos", "a dog", "--top", "0"], 2, "top must be at least 1, not 0; see vlm search"),
        (["none", "a dog"], 1, "cannot search none: No such file or directory"),
        (["file", "a dog"], 1, "cannot search file: Not a directory"),
        (["empty", "a dog"], 1, "no photos in empty: none of its files ends in .avif, .bmp, "),
        (["photos", "--like", "none.jpg"], 1, "cannot read 'none.jpg': No such file or directory"),
        (["photos", "a dog"], 1, "'none': no such"),
        (["broken", "a dog"], 1, "none of the photos in broken can be read: cannot read 'broken/"),
    ],
)
def test_what_cannot_be_searched_is_told(
    words: list[str],
    status: int,
    message: str,
    folder: Path,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("file").touch()
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken", "a.png").touch()
    model = str(clip) if words[0] == "broken" else "./none"
    assert main(["search", *words, "--model", model]) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert f"vlm: {message.replace(chr(39) + 'none' + chr(39), repr('./none'))}" in said.err

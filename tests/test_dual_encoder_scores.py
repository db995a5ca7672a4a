"""`vlm score retrieval` and `vlm score zero-shot` against the figures of their definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.clip_folders import clip_folder
from tests.data_folders import save_json, save_photos
from vlm.cli import main
from vlm.clip import load_clip
from vlm.files import write_rows
from vlm.retrieval import retrieval, zero_shot


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(clip_folder(tmp_path_factory.mktemp("clip")))


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Four photos, the last of another split, with two captions each."""
    names = [f"{n}.png" for n in range(4)]
    save_photos(tmp_path / "images", *names)
    rows = [
        {
            "image": name,
            "captions": [f"a dog {n}", f"a cat {n}"],
            "split": "test" if n < 3 else "val",
        }
        for n, name in enumerate(names)
    ]
    write_rows(tmp_path / "captions.jsonl", rows)
    return names


def embedded(clip: str, count: int, texts: list[str]) -> np.ndarray:
    model = load_clip(clip, "cpu")
    pixels = model.preprocessing.batch([tiny.photo(n) for n in range(count)])
    with torch.no_grad():
        return (model.image_features(pixels) @ model.text_features(texts).T).numpy()


def test_retrieval(
    clip: str, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "retrieval", "--captions", str(tmp_path), "--model", clip]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    texts = [f"a {animal} {n}" for n in range(3) for animal in ("dog", "cat")]
    right = np.repeat(np.arange(3), 2) == np.arange(3)[:, None]
    assert found == pytest.approx(retrieval(embedded(clip, 3, texts), right) | {"photos": 3})
    assert main(command) == 0
    assert "3 photos\n  photo to text r1 " in capsys.readouterr().out
    Path(tmp_path, "images", photos[1]).write_bytes(b"no photo")
    assert main(command) == 1
    assert "cannot read" in capsys.readouterr().err


def test_zero_shot(
    clip: str, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {0: ["dog"], 1: ["cat", "apple"], 2: []}
    categories = {name: n for n, name in enumerate(("dog", "cat", "apple"))}
    content = {
        "images": [{"id": n, "file_name": photos[n]} for n in shown],
        "categories": [{"id": n, "name": name} for name, n in categories.items()],
        "annotations": [
            {"image_id": n, "category_id": categories[name], "bbox": [0, 0, 9, 9]}
            for n, names in shown.items()
            for name in names
        ],
    }
    file = save_json(tmp_path / "instances.json", content)
    where = ["--instances", str(file), "--images", str(tmp_path / "images"), "--model", clip]
    assert main(["score", "zero-shot", *where, "--json"]) == 0
    texts = ["a photo of an apple", "a photo of a cat", "a photo of a dog"]
    right = np.array([[False, False, True], [True, True, False]])
    expected = zero_shot(embedded(clip, 2, texts), right) | {"photos": 2}
    assert json.loads(capsys.readouterr().out) == pytest.approx(expected)

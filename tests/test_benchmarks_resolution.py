"""benchmarks/resolution.py: each size in both ways, with what it costs."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

# Where Python looks when the file is run as a script.
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import resolution

import vlm
from tests import tiny, tiny_folders
from tests.clip_folders import clip_folder
from vlm.config import LanguageConfig, LoraConfig

SIDE = tiny.IMAGE_SIZE


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four captioned photos of two shapes."""
    (tmp_path / "images").mkdir()
    with (tmp_path / "captions.jsonl").open("w", encoding="utf-8") as file:
        for number in range(4):
            shape = (80, 40) if number % 2 else (40, 40)
            tiny.photo(number, shape).save(tmp_path / "images" / f"{number}.png")
            captions = [f"a cat sits on {number} dogs", f"the grass of {number}"]
            line = {"image": f"{number}.png", "captions": captions, "split": "test"}
            file.write(json.dumps(line) + "\n")
    return tmp_path


def test_every_size_is_measured_in_both_ways(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_folders.model_config(tmp_path / "parts")
    config.language = LanguageConfig(config.language.source, lora=LoraConfig(rank=2))
    vlm.build(config, "cpu").save(tmp_path / "model")
    clip, plot = str(clip_folder(tmp_path / "clip")), tmp_path / "plot.png"
    sizes = [SIDE, 48, 2 * SIDE]
    for given in (clip, None):
        resolution.main(
            data, str(tmp_path / "model"), given, sizes=sizes, photos=4, json=True, plot=plot
        )
        *shown, last = capsys.readouterr().out.splitlines()
        rows = json.loads(last)["rows"]
        assert [list(rows[way]) for way in ("interpolated", "tiled")] == [
            ["32", "48", "64"],
            ["64"],
        ]
        whole, tiled = rows["interpolated"], rows["tiled"]["64"]
        assert [row["tokens"] for row in whole.values()] == [16, 36, 64]
        # Thumbnail, and half of the photos in 2 x 2 tiles, half in 1 x 2.
        assert tiled["tokens"] == 16 + (8 * 9 + 4 * 9) / 2
        assert whole["32"]["gflops"] < whole["64"]["gflops"]
        assert all(row["cider"] is not None for row in (*whole.values(), tiled))
        recalls = {
            row[f"{way}_to_{to}"] is None
            for row in (*whole.values(), tiled)
            for way, to in (("photo", "text"), ("text", "photo"))
        }
        assert recalls == {given is None}
        assert ("R@1 is left out: --clip names a CLIP" in " ".join(shown)) == (given is None)
        assert Image.open(plot).size == (1800, 540)


@pytest.mark.parametrize(
    ("size", "grids"), [(224, None), (300, None), (448, [[1, 2], [2, 1], [2, 2]]), (100, None)]
)
def test_grids_of_a_size(size: int, grids: list | None) -> None:
    assert resolution.grids_of(size, 224) == grids

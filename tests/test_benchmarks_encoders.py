"""benchmarks/encoders.py: both ways give the same patch tokens; both are measured."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

# Where Python looks when the file is run as a script.
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import encoders

from tests.test_vision import FAMILIES
from tests.tiny import IMAGE_SIZE, clip_config

TINY = {name: FAMILIES[name][0] for name in ("clip", "siglip", "dinov2", "vit", "swin")}


@pytest.mark.parametrize("name", [*TINY, None])
@torch.no_grad()
def test_both_ways_give_the_same_patch_tokens(name: str | None) -> None:
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    config = None if name is None else TINY[name]
    expected, found = (
        encoders.build(config, way, IMAGE_SIZE)[1](pixels)
        for way in (encoders.LIBRARY, encoders.OURS)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_operations_are_those_of_the_layers_that_run() -> None:
    config = clip_config(layers=5)
    library, ours = (
        encoders.measure(config, way, IMAGE_SIZE) for way in (encoders.LIBRARY, encoders.OURS)
    )
    tokens, width, inside = 17, config.hidden_size, config.intermediate_size
    products = tokens * width * (4 * width + 2 * inside)
    layer = 2 * (products + 2 * tokens**2 * width)
    patches = 2 * 16 * 3 * config.patch_size**2 * width
    assert library.gflops * 1e9 == pytest.approx(patches + 5 * layer)
    assert ours.gflops * 1e9 == pytest.approx(patches + 4 * layer)
    assert library.tokens == ours.tokens == 16
    assert ours.parameters < library.parameters


def test_the_line_of_json_has_each_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoders, "ENCODERS", {"tiny": clip_config(), "embedded eye": None})
    monkeypatch.setattr(encoders, "SIZE", IMAGE_SIZE)
    encoders.main(json=True)
    *shown, last = capsys.readouterr().out.splitlines()
    costs = json.loads(last)["encoders"]
    assert [costs[name][way]["tokens"] for name in costs for way in costs[name]] == [16, 16, 1, 1]
    assert all(
        value > 0 for rows in costs.values() for cost in rows.values() for value in cost.values()
    )
    assert any("images/s" in text for text in shown)


def test_shapes_are_those_of_the_papers() -> None:
    """Millions of parameters, without classifiers; SigLIP's pool by attention."""
    found = {}
    with torch.device("meta"):
        for name, config in encoders.ENCODERS.items():
            if config is not None:
                model = AutoModel.from_config(config)
                found[name] = round(sum(p.numel() for p in model.parameters()) / 1e6)
    assert found == {
        "CLIP ViT-B/16": 86,
        "SigLIP2 ViT-B/16": 93,
        "DINOv2 ViT-B/14": 87,
        "ViT-B/16": 86,
        "Swin-T": 28,
    }

"""Benchmarks: both ways to train learn the same from the same data; the script compares them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from rich.console import Console

# Where Python looks when the file is run as a script.
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import data_scale
import decode_speed
import eval_speed
import start
import train_speed
from obvious_way import OBVIOUS, time_trainer
from recipe_way import NO_GROUPING, RECIPE, VARIANTS, prepare, time_recipe
from settings import TINY

import vlm
from tests import tiny_folders


def test_every_way_to_train_has_the_losses_of_the_obvious_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In bfloat16, which some CPUs would take, losses are less alike.
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    filled = prepare(TINY, tmp_path)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    obvious = time_trainer(TINY, tmp_path, filled.flops, dtype)
    losses = {name: time_recipe(TINY, tmp_path, name).loss for name in VARIANTS}
    shuffled = {name for name in VARIANTS if NO_GROUPING in VARIANTS[name][1]}
    for name in VARIANTS.keys() - shuffled:
        assert losses[name] == pytest.approx(obvious.loss, abs=1e-4), name
    # In another order, the first steps have other photos.
    first, second = (losses[name] for name in shuffled)
    assert first == pytest.approx(second, abs=1e-4)
    assert obvious.captions > 0
    assert filled.photos > 0
    AcceleratorState._reset_state(reset_partial_state=True)
    half = time_trainer(TINY, tmp_path, filled.flops, torch.bfloat16)
    assert half.loss == pytest.approx(obvious.loss, abs=0.05)


def test_the_line_of_json_has_the_speedups(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_speed, "CPU", [TINY])
    monkeypatch.setattr(train_speed, "CUDA", [TINY])
    train_speed.main(quick=True, json=True)
    *shown, last = capsys.readouterr().out.splitlines()
    line = json.loads(last)
    rows = line["details_16"]["rows"]
    assert rows.keys() == {RECIPE, OBVIOUS}
    assert line["steady_speedup_16"] == pytest.approx(
        rows[RECIPE]["captions"] / rows[OBVIOUS]["captions"], abs=0.01
    )
    assert 0 < line["speedup_16"] <= line["steady_speedup_16"]
    assert line["memory_16"] > 0
    assert any(OBVIOUS in text for text in shown)


def test_filling_the_cache_counts_over_three_epochs() -> None:
    recipe = train_speed.Measured(10.0, tokens=0.0, memory=0, loss=0.0, precision="fp32", mfu=None)
    filled = train_speed.Filled(photos=2.0, memory=0, flops=None)
    # A photo takes three times half a second, and half a second before.
    assert train_speed.amortised(filled, recipe) == pytest.approx(15 / 2)


def test_an_unknown_setting_is_told() -> None:
    with pytest.raises(SystemExit, match="no setting has 7 image tokens, there are 49, 196"):
        train_speed.main(tokens=7)


def test_the_runner_answers_as_the_plain_loop_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("easy_vqa")
    vlm.build(tiny_folders.model_config(tmp_path), "cpu").save(tmp_path / "model")
    eval_speed.main(photos=2, batch_size=5, model=str(tmp_path / "model"), json=True)
    *shown, last = capsys.readouterr().out.splitlines()
    line = json.loads(last)
    assert line["questions"] >= 10
    assert line["same_answers"] == line["questions"]
    assert line["eval_speedup"] > 0
    assert any("plain loop" in text for text in shown)


def test_decoding_is_timed_beside_transformers_and_without_llama_cpp(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decode_speed, "TOKENS", 4)
    monkeypatch.setattr(decode_speed, "TIMES", 1)
    monkeypatch.setattr(decode_speed, "find_spec", lambda name: None)
    decode_speed.main(json=True, plot=None)
    shown, last = capsys.readouterr().out.rsplit("\n", 2)[:2]
    rates = json.loads(last)["tokens_per_second"]
    assert rates.keys() == {"transformers", "vlm"}
    assert min(rates.values()) > 0
    assert "llama.cpp is left out: pip install 'vlm[bench]' brings it" in shown


def test_decoding_is_drawn_against_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decode_speed, "CONTEXTS", [8, 16])
    monkeypatch.setattr(decode_speed, "PHOTOS", [2, 16])
    decode_speed.main(json=True, plot=tmp_path / "plot.png")
    exponents = json.loads(capsys.readouterr().out.splitlines()[-1])["exponents"]
    assert exponents.keys() == {"decoding", "prefill"}
    assert Image.open(tmp_path / "plot.png").size == (1320, 540)


def test_a_start_is_timed_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "TIMES", 1)
    seconds, memory = start.run(["train", "--help"])
    assert seconds > 0
    assert 2**24 < memory < 2**30
    assert start.first_word() > 0


def test_starts_of_training_are_timed_with_an_index_and_without(tmp_path: Path) -> None:
    rows = data_scale.measure(20, [data_scale.FIRST, data_scale.DATA], Console(quiet=True))
    assert rows.keys() == {data_scale.FIRST, data_scale.DATA}
    for cost in rows.values():
        assert cost.seconds > 0
        assert cost.memory > 2**26


def test_the_exponent_of_a_cost_is_the_slope_of_its_line(tmp_path: Path) -> None:
    sizes = (10, 100, 1000)
    costs = {
        size: {name: data_scale.Cost(size / 5, size**2) for name in data_scale.PLOTTED}
        for size in sizes
    }
    found = data_scale.draw(costs, tmp_path / "plot.png")
    assert found == {name: {"seconds": 1.0, "memory": 2.0} for name in data_scale.PLOTTED}
    assert Image.open(tmp_path / "plot.png").size == (1320, 540)

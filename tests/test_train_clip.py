"""A whole run of contrastive training, tiny: what it leaves, resumes, says and refuses."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from rich.console import Console

from tests import tiny_clip, tiny_runs
from train.clip import ClipEpochs, read_all
from train.config import ContrastConfig, TrainConfig, Trains
from train.run import train
from train.views import View
from vlm.clip import load_clip
from vlm.config import ModelConfig
from vlm.data.skipped import read_report
from vlm.errors import ConfigError, DataError
from vlm.hybrid_clip import HybridClip, load_hybrid

WITHOUT_DROPOUT = replace(tiny_clip.CONFIG, dropout=0.0)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all, with a sentence encoder in it, which is never fetched."""
    folder = tmp_path_factory.mktemp("cache")
    tiny_clip.sentence_encoder(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLM_CACHE", str(folder))
        yield folder


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return tiny_clip.run_config(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run to its end, with all that changes the weights."""
    config = tiny_clip.run_config(tmp_path_factory.mktemp("done"), epochs=6, ema=0.5)
    train(config)
    return config


def assert_alike(config: TrainConfig, other: TrainConfig) -> None:
    """The weights of two runs are the same but for float32's rounding."""
    one, two = tiny_runs.weights(config), tiny_runs.weights(other)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        compared = torch.ones(len(tensor.flatten()), dtype=torch.bool)
        if name.endswith("query_key_value.bias"):
            # The keys' changes nothing: its gradient is rounding, which Adam makes as large as any.
            compared = compared.view(3, -1).index_fill(0, torch.tensor(1), False).flatten()
        rows = (tensor.flatten()[compared], two[name].flatten()[compared])
        torch.testing.assert_close(*rows, rtol=0, atol=1e-5, msg=name)


def test_it_learns_and_leaves_a_clip(done: TrainConfig) -> None:
    losses = tiny_runs.metrics(done)
    assert len(losses) == 6 * 2
    assert mean(losses[-3:]) < 0.5 * mean(losses[:3])
    assert tiny_runs.metrics(done, "images") == [4] * 12
    assert all(scale <= 100 for scale in tiny_runs.metrics(done, "scale"))
    clip = load_clip(str(done.output), "cpu")
    assert isinstance(clip, HybridClip)
    assert clip.config == tiny_clip.CONFIG
    for name in ("run.json", "loss.png", "skipped.jsonl", "state"):
        assert (done.output / name).exists()


def test_the_best_scores_are_kept(done: TrainConfig) -> None:
    rows = [row for row in tiny_runs.rows(done) if "boxes/instances.json top1" in row]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    ways = [f"{way}_r{k}" for way in ("photo_to_text", "text_to_photo") for k in (1, 5, 10)]
    names = {f"captions/captions.jsonl {name}" for name in ways} | {
        "boxes/instances.json top1",
        "boxes/instances.json top5",
    }
    assert all(row.keys() == {"step"} | names for row in rows)
    means = [mean(row[name] for name in names) for row in rows]
    assert max(means) > 50
    clip = load_hybrid(done.output / "checkpoint")
    sources, _ = read_all(done)
    epochs = ClipEpochs(done, clip, Accelerator(cpu=True), sources, Console(quiet=True))
    scores = [epochs.measured(clip, photos) for photos in epochs.held_out]
    kept = mean(value for found in scores for value in found.values())
    assert kept == pytest.approx(max(means))


def test_without_validation_the_last_is_kept(config: TrainConfig) -> None:
    config = replace(config, validation=None, epochs=2)
    train(config)
    state = torch.load(config.output / "state" / "step-00000004" / "training.pt", weights_only=True)
    assert state["at"]["step"] == 4
    weights = tiny_runs.weights(config)
    trained = tiny_runs.load_file(config.output / "state/step-00000004/trained.safetensors")
    assert tiny_runs.same(weights, trained)


class Killed(Exception):
    """Ends a run as a kill would: it saves nothing."""


def test_killed_it_resumes_to_the_same_weights(done: TrainConfig) -> None:
    config = replace(done, output=done.output.with_name("killed"), save_every=1)

    def kill(step: int) -> None:
        if step in at:
            at.remove(step)
            raise Killed

    at = [5, 8]
    with tiny_runs.after_each_step(kill):
        for resume in (False, True, True):
            config.resume = resume
            if at:
                with pytest.raises(Killed):
                    train(config)
            else:
                train(config)
    assert tiny_runs.same(tiny_runs.weights(config), tiny_runs.weights(done))
    told = {
        "step",
        "loss",
        "scale",
        "gradient_norm",
        "boxes/instances.json top1",
        "captions/captions.jsonl text_to_photo_r1",
    }
    rows = [
        [{name: row[name] for name in told & row.keys()} for row in tiny_runs.rows(each)]
        for each in (config, done)
    ]
    assert rows[0] == rows[1]


def test_a_run_is_not_begun_over(done: TrainConfig) -> None:
    before = (done.output / "skipped.jsonl").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="holds a run already: --resume resumes it"):
        train(done)
    assert (done.output / "skipped.jsonl").stat().st_mtime_ns == before
    contrast = replace(done.contrast, views=1)
    with pytest.raises(ConfigError, match=r"have changed: config\.contrast\.views: 2 then, 1 now"):
        train(replace(done, contrast=contrast, resume=True))


def test_parts_of_a_batch_give_the_weights_of_the_whole(config: TrainConfig) -> None:
    contrast = replace(config.contrast, model=WITHOUT_DROPOUT)
    whole = replace(config, contrast=contrast, epochs=2)
    train(whole)
    parts = tiny_runs.elsewhere(whole, contrast=replace(contrast, at_once=3))
    train(parts)
    assert_alike(parts, whole)


def test_softmax(config: TrainConfig) -> None:
    model = replace(tiny_clip.CONFIG, activation="softmax")
    config = replace(config, contrast=ContrastConfig(model, views=2), epochs=12)
    train(config)
    losses = tiny_runs.metrics(config)
    # Of four photos; some have the same text, which is then no negative.
    assert losses[0] < math.log(4) + 1
    assert mean(losses[-3:]) < 0.7 * mean(losses[:3])
    clip = load_hybrid(config.output / "checkpoint")
    assert (clip.activation, clip.bias.item()) == ("softmax", 0)


def test_two_processes_equal_one(config: TrainConfig, tmp_path: Path) -> None:
    contrast = replace(config.contrast, model=WITHOUT_DROPOUT)
    one = replace(config, contrast=contrast, epochs=2)
    train(one)
    two = tiny_runs.elsewhere(one, batch_size=2)
    ended = tiny_runs.run(two, tmp_path / "two.json", processes=2)
    assert ended.returncode == 0, ended.stderr
    for name in ("step", "images"):
        assert tiny_runs.metrics(two, name) == tiny_runs.metrics(one, name)
    for name in ("loss", "gradient_norm"):
        expected = pytest.approx(tiny_runs.metrics(one, name), rel=1e-4)
        assert tiny_runs.metrics(two, name) == expected
    assert_alike(two, one)


def test_left_and_right_are_not_said_of_a_mirrored_view(config: TrainConfig) -> None:
    contrast = replace(config.contrast, texts=1)
    config = replace(config, contrast=contrast, learning_rate=1e-3)
    sources, _ = read_all(config)
    clip = HybridClip(tiny_clip.CONFIG)
    epochs = ClipEpochs(config, clip, Accelerator(cpu=True), sources, Console(quiet=True))
    drawn = set()
    for seed in range(12):
        batch = epochs.batch(str(seed), range(8), range(8))
        drawn_now = zip(batch.photos, batch.stem_tokens, batch.texts, strict=True)
        for photo, tokens, text in drawn_now:
            views = [View(epochs.known.photos[photo].photo, number) for number in range(2)]
            (view,) = [each for each in views if epochs.features.get(each).equal(tokens)]
            drawn.add((view.number, "left" in epochs.texts[text]))
    assert drawn == {(0, True), (0, False), (1, False)}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": ModelConfig(llava="x")}, "stage contrast has no model: leave it out"),
        ({"start": "embedded"}, "stage contrast has no start: leave it out"),
        ({"trains": Trains()}, "stage contrast has no trains: leave it out"),
        ({"accumulate": 2}, "stage contrast has no accumulate: leave it out"),
        ({"pack": "none"}, "stage contrast has no pack: leave it out"),
        ({"cache": "off"}, "stage contrast has no cache: leave it out"),
        ({"cache_dtype": "bfloat16"}, "stage contrast has no cache_dtype: leave it out"),
        ({"answer_every": 1}, "stage contrast has no answer_every: leave it out"),
        ({"stage": "align"}, "contrast is of stage contrast, not of align"),
    ],
)
def test_settings_that_it_has_no_use_for(
    fields: dict[str, object], told: str, config: TrainConfig
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
        train(replace(config, **fields))


@pytest.mark.parametrize("name", ["augment", "self_critical"])
def test_settings_of_data_that_it_has_no_use_for(name: str, config: TrainConfig) -> None:
    message = f"^stage contrast has no {name} of its data: leave it out$"
    with pytest.raises(ConfigError, match=message):
        train(replace(config, data=[replace(config.data[0], **{name: True})]))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"views": 0}, "contrast.views must be at least 1, not 0"),
        ({"texts": 0}, "contrast.texts must be at least 1, not 0"),
        ({"at_once": 0}, "contrast.at_once must be at least 1, not 0"),
        (
            {"model": replace(tiny_clip.CONFIG, activation="softmax"), "texts": 2},
            "contrast.texts must be 1 with contrast.model.activation softmax, which pairs each "
            "photo with one text: choose sigmoid for several",
        ),
    ],
)
def test_settings_out_of_range(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
        ContrastConfig(**fields)


def test_left_out_settings_are_the_stages() -> None:
    config = TrainConfig([], stage="contrast")
    config.resolve()
    assert (config.contrast, config.learning_rate) == (ContrastConfig(), 1e-3)


def test_a_batch_of_more_photos_than_there_are(config: TrainConfig) -> None:
    message = "^a batch of 9 photos is more than the 8 there are: make batch_size smaller$"
    with pytest.raises(DataError, match=message):
        train(replace(config, batch_size=9))


def test_a_cache_without_room(config: TrainConfig) -> None:
    message = (
        r"^the features of 23 views have no room in the 2e-05 GB of cache_gb: make it more, or "
        r"contrast\.views fewer$"
    )
    with pytest.raises(DataError, match=message):
        train(replace(config, cache_gb=2e-5))


def test_broken_photos_are_reported_and_left_out(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = Path(config.data[0].path).parent
    for name in ("3.png", "9.png"):  # One is trained on, one held out.
        (captions / name).write_bytes(b"no photo")
    report = config.output / "skipped.jsonl"
    with pytest.raises(
        DataError,
        match=r"^2 of 16 samples cannot be used \(2 broken image\), more than the 0\.01 that allow",
    ):
        train(config)
    train(replace(config, allowed_unusable=0.5))
    assert f"skipped: 2 broken image; see {report}" in capsys.readouterr().err
    assert {one.where for one in read_report(report)} == {
        str(captions / "3.png"),
        str(captions / "9.png"),
    }
    images = tiny_runs.metrics(config, "images")
    assert sum(images) == 4 * 7
    assert set(images) == {3, 4}
    assert load_hybrid(config.output / "checkpoint").scale.isfinite()


def test_a_batch_of_broken_photos(config: TrainConfig) -> None:
    broken = Path(config.data[0].path).parent / "3.png"
    broken.write_bytes(b"no photo")
    told = f"no photo of a batch can be read, such as {broken}"
    with pytest.raises(DataError, match=f"^{re.escape(told)}"):
        train(replace(config, batch_size=1, allowed_unusable=0.5))


def test_photos_that_are_not_there(config: TrainConfig) -> None:
    (Path(config.data[0].path).parent / "3.png").unlink()
    report = config.output / "skipped.jsonl"
    told = "1 of 16 samples cannot be used (1 missing image), more than the 0.01"
    with pytest.raises(DataError, match=f"^{re.escape(told)}"):
        train(config)
    (row,) = map(json.loads, report.read_text(encoding="utf-8").splitlines())
    assert row["where"] == f"{config.data[0].path}, line 4"


def test_sharded_weights(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    sharded = property(lambda accelerator: DistributedType.FSDP)
    monkeypatch.setattr(Accelerator, "distributed_type", sharded, raising=False)
    message = "^stage contrast needs whole weights: launch it without FSDP$"
    with pytest.raises(ConfigError, match=message):
        train(config)

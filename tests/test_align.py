"""Stage 1 end to end, on tiny parts and random photos."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

import vlm
from tests import tiny, tiny_folders
from train.align import AlignConfig, align, validate
from train.captions import CaptionRows, CaptionSource, read_sources
from train.features import FeatureCache
from vlm.cli import main
from vlm.config import ModelConfig, ProjectorConfig
from vlm.errors import CheckpointError, ConfigError, DataError, VLMError

SUBJECTS = ["a cat", "two dogs", "the picture", "an image"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven photos with one to three captions each, in `captions.jsonl`."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for number in range(7):
        tiny.photo(number).save(folder / f"{number}.png")
        captions = [f"{SUBJECTS[(number + i) % 4]} on the grass ." for i in range(number % 3 + 1)]
        split = "val" if number > 4 else "train"
        lines.append({"image": f"{number}.png", "captions": captions, "split": split})
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "captions.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> ModelConfig:
    return tiny_folders.model_config(folder / "parts")


@pytest.fixture
def config(folder: Path, model: ModelConfig, tmp_path: Path) -> AlignConfig:
    return AlignConfig(
        data=[CaptionSource(folder / "captions.jsonl")],
        model=model,
        output=tmp_path / "run",
        features=folder / "features",
        batch_size=4,
        workers=0,
        epochs=2,
        learning_rate=1e-2,
    )


def metrics(config: AlignConfig, name: str = "loss") -> list[float]:
    lines = (config.output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row[name] for row in rows if name in row]


def test_the_loss_falls_and_the_checkpoint_answers(
    config: AlignConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, epochs=15, workers=1)
    checkpoint = align(config)
    losses = metrics(config)
    assert len(losses) == metrics(config, "step")[-1] == 30
    assert losses[-1] < 0.8 * losses[0]
    assert metrics(config, "learning_rate")[1] == config.learning_rate

    assert checkpoint == config.output / "checkpoint"
    assert all(
        name.startswith("projector.") for name in load_file(checkpoint / "model.safetensors")
    )
    loaded = vlm.load(checkpoint, device="cpu")
    assert isinstance(loaded.chat("What is in the picture?", [tiny.photo()], max_tokens=4), str)
    assert json.loads((config.output / "config.json").read_text())["epochs"] == 15

    rows = [line.split() for line in capsys.readouterr().err.splitlines()]
    trains = {row[1]: row[5] for row in rows if len(row) == 9 and row[0] == "│"}
    assert trains == {"vision": "no", "projector": "yes", "language": "no"}


def test_the_same_run_twice_gives_the_same_bits(config: AlignConfig, tmp_path: Path) -> None:
    first = load_file(align(config) / "model.safetensors")
    second = load_file(align(replace(config, output=tmp_path / "again")) / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_max_steps_ends_the_run_and_its_schedule(config: AlignConfig) -> None:
    align(replace(config, epochs=10, max_steps=3, warmup=0.0))
    shares = [rate / config.learning_rate for rate in metrics(config, "learning_rate")]
    assert shares == pytest.approx([1, 0.75, 0.25])


def test_augmentation_trains_on_other_views_and_encodes_nothing(
    config: AlignConfig, tmp_path: Path
) -> None:
    align(config)
    plain = metrics(config)
    other = replace(config, augment=True, features=tmp_path / "none", output=tmp_path / "other")
    align(other)
    assert len(metrics(other)) == len(plain)
    assert metrics(other) != plain
    assert not (tmp_path / "none").exists()


def test_accumulation_equals_a_larger_batch(config: AlignConfig, tmp_path: Path) -> None:
    parts = replace(config, output=tmp_path / "parts", batch_size=2, accumulate=2)
    align(config)
    align(parts)
    assert len(metrics(config)) == 4
    assert metrics(parts) == pytest.approx(metrics(config), rel=1e-5)


def run_two_processes(config: AlignConfig, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs `vlm train` as two processes of their own: forked ones would hang on the locks of the
    OpenMP threads that earlier tests have started."""
    preset = folder / "two.yaml"
    preset.write_text(json.dumps(asdict(config), default=str), encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [sys.executable, *launch, "-m", "vlm", "train", str(preset)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_processes_equal_one_that_accumulates(config: AlignConfig, tmp_path: Path) -> None:
    config = replace(config, batch_size=2)
    two = replace(config, output=tmp_path / "two")
    done = run_two_processes(two, tmp_path)
    assert done.returncode == 0, done.stderr
    align(replace(config, accumulate=2))
    assert len(metrics(two)) == 4
    assert metrics(two) == pytest.approx(metrics(config), rel=1e-5)


def test_fewer_photos_than_processes(config: AlignConfig, tmp_path: Path) -> None:
    line = json.dumps({"image": "0.png", "captions": ["A cat."]})
    (tmp_path / "one.jsonl").write_text(line, encoding="utf-8")
    tiny.photo().save(tmp_path / "0.png")
    config = replace(config, data=[CaptionSource(tmp_path / "one.jsonl")])
    done = run_two_processes(config, tmp_path)
    assert done.returncode != 0
    assert "vlm: fewer photos than the 2 processes: start fewer\n" in done.stderr


def test_training_goes_on_from_a_projector(config: AlignConfig, tmp_path: Path) -> None:
    # One step at a time, so that the first loss is that of the projector it starts from.
    config = replace(config, epochs=1, batch_size=7)
    checkpoint = align(config)
    more = replace(config, output=tmp_path / "more", projector=checkpoint)
    align(more)
    (fresh,), (trained,) = metrics(config), metrics(more)
    assert trained < fresh
    assert (
        load_file(checkpoint / "model.safetensors").keys()
        == load_file(more.output / "checkpoint" / "model.safetensors").keys()
    )

    other = replace(more, model=replace(config.model, projector=ProjectorConfig("linear")))
    with pytest.raises(CheckpointError, match=r"does not fit the model: projector\.projection"):
        align(other)
    with pytest.raises(CheckpointError, match="not a checkpoint of this project: no projector"):
        align(replace(config, projector=Path(config.model.language.source)))


def test_the_best_epoch_is_kept(config: AlignConfig, folder: Path) -> None:
    # The held-out caption contradicts the one that is learned by heart.
    train, held_out = (CaptionSource(folder / f"{name}.jsonl") for name in ("one", "other"))
    for source, caption in ((train, "A A A A A A"), (held_out, "B C D E F G")):
        line = json.dumps({"image": "0.png", "captions": [caption]})
        source.file.write_text(line, encoding="utf-8")
    config = replace(config, data=[train], validation=[held_out], epochs=3)
    model = vlm.load(align(config), device="cpu")
    losses = metrics(config, "validation_loss")
    assert len(losses) == 3
    assert min(losses) < losses[-1]
    samples = read_sources([held_out])
    photos = [sample.photo.image for sample in samples]
    features = FeatureCache(
        model.vision, config.model.vision, photos, folder / "features", model.device
    )
    batches = CaptionRows(model, features, samples, config.seed, 0).loader(4, 0, 0, 1)
    assert validate(Accelerator(), model, batches) == pytest.approx(min(losses), rel=1e-5)


def test_a_loss_that_is_no_number_says_what_to_do(config: AlignConfig) -> None:
    with pytest.raises(VLMError, match=r"^the loss is (nan|inf) at step 2: lower learning_rate$"):
        align(replace(config, learning_rate=1e30))
    assert not (config.output / "checkpoint").exists()


def test_checkpoints_within_an_epoch_outlive_the_end_of_a_run(config: AlignConfig) -> None:
    with pytest.raises(VLMError, match="at step 2"):
        align(replace(config, learning_rate=1e30, save_every=1))
    assert vlm.load(config.output / "checkpoint").projector is not None


def test_validation_and_save_every_exclude_each_other(config: AlignConfig) -> None:
    with pytest.raises(ConfigError, match=r"^validation keeps the best epoch: save_every is for"):
        replace(config, validation=config.data, save_every=1)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("epochs", 0, "at least 1"),
        ("save_every", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("accumulate", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0"),
        ("warmup", 1.5, "from 0 to 1"),
        ("weight_decay", -1.0, "0 or more"),
        ("clip", 0.0, "above 0"),
        ("workers", -1, "0 or more"),
    ],
)
def test_settings_out_of_range(field: str, value: float, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be {allowed}, not {value}$"):
        AlignConfig(data=[], **{field: value})


def test_an_output_that_cannot_be_written(config: AlignConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VLMError, match=r"^cannot write .*file/run: Not a directory$"):
        align(replace(config, output=tmp_path / "file" / "run"))


def test_a_missing_data_file(config: AlignConfig) -> None:
    with pytest.raises(DataError, match=r"^cannot read none\.jsonl: No such file or directory$"):
        align(replace(config, data=[CaptionSource(Path("none.jsonl"))]))


@pytest.fixture
def preset(config: AlignConfig, tmp_path: Path) -> Path:
    """The config as the user writes it; YAML is a superset of JSON."""
    sources = config.model.vision.source, config.model.language.source
    text = {
        "data": [{"file": str(config.data[0].file), "split": "train"}],
        "model": {"vision": {"source": sources[0]}, "language": {"source": sources[1]}},
        "output": str(config.output),
        "features": str(config.features),
        "workers": 0,
        "epochs": 5,
    }
    file = tmp_path / "preset.yaml"
    file.write_text(json.dumps(text), encoding="utf-8")
    return file


def test_the_command_line_overrides_the_preset(config: AlignConfig, preset: Path) -> None:
    words = ["train", str(preset), "--epochs", "1", "--batch_size", "5", "--model.projector.kind"]
    assert main([*words, "linear"]) == 0
    assert len(metrics(config)) == 1
    written = load_file(config.output / "checkpoint" / "model.safetensors")
    assert sorted(written) == ["projector.projection.bias", "projector.projection.weight"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"epochs": 5', '"epoch": 5', "epoch"),
        ('"epochs": 5', '"epochs": "many"', "many"),
        ('"split"', '"part"', "part"),
    ],
)
def test_a_wrong_preset_is_named(
    preset: Path, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    preset.write_text(preset.read_text().replace(old, new))
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(preset)])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_errors_of_a_run_are_one_line(preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(preset), "--epochs", "0"]) == 1
    assert capsys.readouterr().err == "vlm: epochs must be at least 1, not 0\n"

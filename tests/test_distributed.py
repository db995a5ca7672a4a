"""Several processes train as one would, and end together."""

import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from torch import nn

from tests import tiny_runs
from train.config import TrainConfig
from train.resume import states
from train.run import prepare, train
from vlm.config import LanguageConfig, LoraConfig
from vlm.errors import ConfigError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Adapters and a projector on seven photos, which neither two processes nor their batches
    divide; an end that two processes have come to."""
    config = tiny_runs.run_config(tmp_path_factory.mktemp("instruct"), stage="instruct", epochs=3)
    config = replace(config, output=config.output.with_name("two"))
    done = tiny_runs.run(config, config.output.with_name("two.json"), processes=2)
    assert done.returncode == 0, done.stderr
    return config


def assert_alike(config: TrainConfig, other: TrainConfig) -> None:
    """Two runs have the same losses, as far as float32 adds up alike."""
    assert tiny_runs.metrics(config, "step") == tiny_runs.metrics(other, "step")
    for name in ("loss", "gradient_norm"):
        expected = tiny_runs.metrics(other, name)
        assert tiny_runs.metrics(config, name) == pytest.approx(expected, rel=1e-5)


def test_two_processes_equal_one_that_accumulates(instruct: TrainConfig) -> None:
    one = replace(instruct, output=instruct.output.with_name("one"), accumulate=2)
    train(one)
    assert len(tiny_runs.metrics(instruct)) == 6
    assert_alike(instruct, one)
    for name in ("images", "tokens"):
        assert tiny_runs.metrics(instruct, name) == tiny_runs.metrics(one, name)
    assert sum(tiny_runs.metrics(instruct, "images")) == 3 * 7


def test_samples_that_cannot_be_used_are_counted_over_processes(tmp_path: Path) -> None:
    config = tiny_runs.run_config(tmp_path, batch_size=1)
    for number in (1, 2):
        (tmp_path / "data" / f"{number}.png").write_bytes(b"no picture")
    # Each process meets one of them in its first epoch; both together are too many.
    two = replace(config, output=tmp_path / "two", allowed_unusable=0.2)
    done = tiny_runs.run(two, tmp_path / "run.json", processes=2)
    assert done.returncode != 0
    report = two.output / "skipped.jsonl"
    told = (
        "vlm: 2 of 7 samples cannot be used (2 broken image), more than the 0.2 that "
        f"allowed_unusable allows: see {report}"
    )
    # Both say so, maybe in one another's line.
    assert told in done.stderr
    places = {json.loads(line)["where"] for line in report.read_text().splitlines()}
    assert places == {f"{config.data[0].path}, line {number}" for number in (2, 3)}
    one = replace(config, output=tmp_path / "one", accumulate=2, allowed_unusable=0.5)
    train(one)
    begun = tiny_runs.metrics(two)
    assert begun == pytest.approx(tiny_runs.metrics(one)[: len(begun)], rel=1e-5)


def start(config: TrainConfig, file: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """The launcher and the two processes that train, once they do."""
    seen = len(tiny_runs.metrics(config)) if (config.output / "metrics.jsonl").exists() else 0
    launcher = subprocess.Popen(
        tiny_runs.command(config, file, processes=2),
        env=tiny_runs.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = config.output / "metrics.jsonl"
    while not metrics.exists() or len(tiny_runs.metrics(config)) <= seen:
        assert launcher.poll() is None, launcher.communicate()[1]
        time.sleep(0.01)
    return launcher, psutil.Process(launcher.pid).children()


def test_killed_and_told_to_end_they_resume(instruct: TrainConfig, tmp_path: Path) -> None:
    language = LanguageConfig(instruct.model.language.source, lora=LoraConfig(dropout=0.2))
    model = replace(instruct.model, language=language)
    config = replace(instruct, output=tmp_path / "run", save_every=1, epochs=8, model=model)
    whole = replace(config, output=tmp_path / "whole")
    done = tiny_runs.run(whole, tmp_path / "whole.json", processes=2)
    assert done.returncode == 0, done.stderr

    launcher, processes = start(config, tmp_path / "run.json")
    for process in (launcher, *processes):
        process.kill()
    launcher.communicate()
    config = replace(config, resume=True)
    launcher, processes = start(config, tmp_path / "run.json")
    processes[1].send_signal(signal.SIGTERM)
    _, told = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    step = tiny_runs.metrics(config, "step")[-1]
    assert f"vlm: stopped by SIGTERM at step {step}: --resume resumes from there" in told
    assert states(config.output / "state")[-1].name == f"step-{step:08d}"
    assert not any(process.is_running() for process in processes)

    done = tiny_runs.run(config, tmp_path / "run.json", processes=2)
    assert done.returncode == 0, done.stderr
    assert f"resuming from step {step}" in done.stderr
    assert tiny_runs.metrics(config) == tiny_runs.metrics(whole)
    assert tiny_runs.same(tiny_runs.weights(config), tiny_runs.weights(whole))


def test_a_state_that_cannot_be_written_ends_all_processes(
    instruct: TrainConfig, tmp_path: Path
) -> None:
    config = replace(instruct, output=tmp_path / "run")
    config.output.mkdir()
    (config.output / "state").touch()
    done = tiny_runs.run(config, tmp_path / "run.json", processes=2)
    assert done.returncode != 0
    assert "vlm: cannot write " in done.stderr
    assert "Not a directory" in done.stderr


def test_processes_draw_captions_of_their_own(tmp_path: Path) -> None:
    config = tiny_runs.run_config(tmp_path, stage="instruct", batch_size=1, accumulate=2)
    # Given and drawn ones, so that the processes have different numbers of batches.
    drawn = replace(config.data[0], self_critical=True)
    config = replace(config, data=[*config.data, drawn])
    done = tiny_runs.run(config, tmp_path / "run.json", processes=2)
    assert done.returncode == 0, done.stderr
    assert sum(tiny_runs.metrics(config, "images")) == 2 * 2 * 7
    assert 0 < len(tiny_runs.metrics(config, "reward")) <= 8


@pytest.mark.parametrize("name", ["ema", "self_critical"])
def test_what_needs_whole_weights(name: str, tmp_path: Path) -> None:
    config = tiny_runs.run_config(tmp_path)
    if name == "ema":
        config.ema = 0.9
    else:
        config.data[0].self_critical = True
    network = nn.Linear(1, 1)
    groups = [{"params": network.parameters(), "lr": 1.0}]
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP)
    with pytest.raises(ConfigError, match=f"^{name} needs whole weights: leave it out with FSDP$"):
        prepare(network, groups, config, accelerator)


def run_sharded(config: TrainConfig) -> None:
    """Two processes that shard the model, see `tests/sharded.py`."""
    words = tiny_runs.command(config, config.output.with_suffix(".json"), processes=2)
    words[words.index("vlm")] = "tests.sharded"
    environment = tiny_runs.environment() | {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
    }
    done = subprocess.run(
        words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_sharded_weights_train_as_whole_ones(instruct: TrainConfig) -> None:
    config = replace(instruct, output=instruct.output.with_name("sharded"), save_every=2)
    run_sharded(config)
    assert not (config.output / "answers.jsonl").read_text()  # it really was sharded
    assert_alike(config, instruct)
    weights, whole = tiny_runs.weights(config), tiny_runs.weights(instruct)
    assert weights.keys() == whole.keys()
    for name, weight in weights.items():
        # Not each number: Adam takes steps of full size where a gradient is little but rounding.
        assert torch.dist(weight, whole[name]) < 1e-3 * whole[name].norm()

    last = states(config.output / "state")[-1]
    last.rename(last.with_name("taken-away"))
    before = tiny_runs.metrics(config)
    run_sharded(replace(config, resume=True))
    assert tiny_runs.metrics(config) == before
    assert tiny_runs.same(tiny_runs.weights(config), weights)


def test_deepspeed_is_refused(instruct: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    # As `accelerate launch` says it.
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(
        ConfigError,
        match=r"^DeepSpeed is not supported: launch with FSDP2 \(configs/accelerate/fsdp2\.yaml\)$",
    ):
        train(replace(instruct, resume=True))


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP")])
def test_accelerate_reads_the_config_files(name: str, kind: str) -> None:
    config = load_config_from_file(str(ROOT / "configs" / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == kind
    assert config.num_processes == 2
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2

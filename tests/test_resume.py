"""A run that is killed resumes as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests import tiny_runs
from tests.tiny_runs import elsewhere
from train.config import TrainConfig, Trains
from train.resume import remove_states, states
from train.run import train
from vlm.config import LanguageConfig, LoraConfig, ModelConfig
from vlm.errors import CheckpointError, ConfigError, VLMError


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Adapters with dropout, so that random numbers matter; a state after each step."""
    config = tiny_runs.run_config(tmp_path, stage="instruct", ema=0.9, save_every=1)
    config.validation = [replace(config.data[0], split="val")]
    config.data[0].split = "train"
    language = LanguageConfig(config.model.language.source, lora=LoraConfig(4, dropout=0.3))
    return replace(config, model=replace(config.model, language=language))


def assert_the_same(config: TrainConfig, other: TrainConfig) -> None:
    """Two runs ended with the same weights and told the same losses, each step once."""
    assert tiny_runs.same(tiny_runs.weights(config), tiny_runs.weights(other))
    for name in ("step", "loss", "learning_rate", "gradient_norm", "validation_loss"):
        assert tiny_runs.metrics(config, name) == tiny_runs.metrics(other, name)


def test_killed_at_random_steps_it_gives_the_same_weights(
    config: TrainConfig, tmp_path: Path
) -> None:
    config = replace(config, epochs=6)
    train(elsewhere(config))
    file = tmp_path / "run.json"
    command = tiny_runs.command(replace(config, resume=True), file)
    generator = random.Random(0)
    metrics = config.output / "metrics.jsonl"
    kills = 0
    for _ in range(3):
        seen = metrics.stat().st_size if metrics.exists() else 0
        process = subprocess.Popen(
            command, env=tiny_runs.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        until = seen + generator.randint(300, 1500)
        while process.poll() is None:
            if metrics.exists() and metrics.stat().st_size > until:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        process.communicate()
    done = tiny_runs.run(replace(config, resume=True), file)
    assert done.returncode == 0, done.stderr
    assert "resuming from step" in done.stderr
    assert kills >= 2
    assert_the_same(config, elsewhere(config))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_state_and_ends(
    config: TrainConfig, tmp_path: Path, number: signal.Signals
) -> None:
    config = replace(config, epochs=200, save_every=10_000, workers=1)
    process = subprocess.Popen(
        tiny_runs.command(config, tmp_path / "run.json"),
        env=tiny_runs.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = config.output / "metrics.jsonl"
    while not metrics.exists() or metrics.stat().st_size < 1000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    last = told.strip().splitlines()[-1]
    step = tiny_runs.metrics(config, "step")[-1]
    assert last == f"vlm: stopped by {number.name} at step {step}: --resume resumes from there"
    assert states(config.output / "state")[-1].name == f"step-{step:08d}"


def test_a_damaged_state_falls_back_to_the_one_before(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    train(elsewhere(config))
    newest = states(config.output / "state")[-1]
    file = newest / "trained.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    train(replace(config, resume=True))
    told = " ".join(capsys.readouterr().err.split())
    assert f"{newest.name} is damaged (trained.safetensors has changed)" in told
    assert "resuming from step 5" in told
    assert_the_same(config, elsewhere(config))


def test_only_the_last_states_are_kept(config: TrainConfig) -> None:
    train(replace(config, keep=3))
    names = [folder.name for folder in states(config.output / "state")]
    assert names == ["step-00000004", "step-00000005", "step-00000006"]


def test_a_finished_run_has_nothing_to_resume(config: TrainConfig) -> None:
    train(config)
    before = tiny_runs.weights(config), tiny_runs.metrics(config, "step")
    train(replace(config, resume=True))
    assert tiny_runs.same(before[0], tiny_runs.weights(config))
    assert before[1] == tiny_runs.metrics(config, "step")


def test_a_run_is_not_overwritten_by_accident(config: TrainConfig) -> None:
    train(config)
    with pytest.raises(ConfigError, match=r"run holds a run already: --resume resumes it, "):
        train(config)
    train(replace(config, force=True, epochs=1))
    assert len(tiny_runs.metrics(config)) == 3
    remove_states(config.output / "state")
    with pytest.raises(ConfigError, match=r"run holds a run already: --resume resumes it, "):
        train(config)


def test_states_stay_until_another_run_begins(config: TrainConfig) -> None:
    train(config)
    before = states(config.output / "state")
    with pytest.raises(VLMError, match="nowhere"):
        train(replace(config, force=True, start="/nowhere", model=ModelConfig()))
    assert states(config.output / "state") == before
    text = (config.output / "config.yaml").read_text(encoding="utf-8")
    assert "resume" not in text
    assert "force" not in text


def test_a_run_whose_states_are_all_damaged_is_left_alone(config: TrainConfig) -> None:
    train(config)
    for folder in states(config.output / "state"):
        (folder / "training.pt").write_bytes(b"damaged")
    before = tiny_runs.weights(config), tiny_runs.rows(config)
    with pytest.raises(CheckpointError, match=r"^every state in .* is damaged: --force instead of"):
        train(replace(config, resume=True))
    assert tiny_runs.same(before[0], tiny_runs.weights(config))
    assert before[1] == tiny_runs.rows(config)


def test_forced_settings_hold(config: TrainConfig) -> None:
    config = replace(config, ema=None, max_steps=2)
    train(config)
    before = tiny_runs.weights(config)
    still = {"learning_rate": 1e-30, "projector_learning_rate": 1e-30}
    train(replace(config, resume=True, force=True, max_steps=None, validation=None, **still))
    assert tiny_runs.metrics(config, "step")[-1] == 6
    for name, weight in tiny_runs.weights(config).items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-20)


def test_more_steps_resume_where_the_fewer_ended(config: TrainConfig) -> None:
    train(elsewhere(config))
    train(replace(config, max_steps=2))
    train(replace(config, resume=True, force=True))
    for name in ("loss", "epoch", "tokens", "images"):
        values, whole = (tiny_runs.metrics(c, name) for c in (config, elsewhere(config)))
        if name == "loss":
            # The learning rate is not the same: that of fewer steps fell sooner.
            assert len(values) == len(whole)
        else:
            assert values == whole


def test_averages_begin_with_the_weights_there_are(config: TrainConfig) -> None:
    train(replace(config, ema=None, max_steps=2))
    before = tiny_runs.weights(config)
    train(replace(config, resume=True, force=True, ema=1 - 1e-7, max_steps=4, validation=None))
    after = tiny_runs.weights(config)
    for name, weight in after.items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-5)
    assert not tiny_runs.same(before, after)


def test_another_rank_cannot_be_resumed(config: TrainConfig) -> None:
    train(config)
    language = replace(config.model.language, lora=LoraConfig(2))
    other = replace(config, model=replace(config.model, language=language))
    with pytest.raises(
        CheckpointError,
        match=r"step-00000006 is of a run that trained something else \(language\..*lora_A.* and "
        r"\d+ more differ\): train the same, or start from its checkpoint$",
    ):
        train(replace(other, resume=True, force=True))


def test_losses_of_other_samples_are_not_compared(config: TrainConfig) -> None:
    train(replace(config, validation=None))
    before = tiny_runs.weights(config)
    train(replace(config, resume=True, force=True, epochs=3))
    assert not tiny_runs.same(before, tiny_runs.weights(config))


def test_a_run_with_a_scaler_resumes_bit_for_bit(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In float16, the first step overflows.
    tiny_runs.compute_in_float16(monkeypatch, 2.0**16)
    train(elsewhere(config))
    train(config)
    shutil.rmtree(states(config.output / "state")[-1])
    train(replace(config, resume=True))
    assert_the_same(config, elsewhere(config))
    norms = tiny_runs.metrics(config, "gradient_norm")
    assert norms[0] is None
    assert norms[-1] is not None


def test_a_changed_config_is_named(config: TrainConfig) -> None:
    train(config)
    other = replace(config, resume=True, learning_rate=0.02, epochs=3, workers=1)
    with pytest.raises(ConfigError) as error:
        train(other)
    assert "its settings have changed: " in str(error.value)
    assert (
        "config.epochs: 2 then, 3 now; config.learning_rate: 0.01 then, 0.02 now; --resume --force"
        in str(error.value)
    )
    train(replace(other, force=True))
    assert tiny_runs.metrics(config, "step")[-1] == 9


def test_changed_data_are_named(config: TrainConfig) -> None:
    train(config)
    captions = Path(config.data[0].path)
    captions.write_text(captions.read_text().replace("grass", "beach"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"settings have changed: data: \"\w+.* then, "):
        train(replace(config, resume=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "bf16"}, r"precision: \"fp32\" then, \"bf16\" now"),
        ({"trains": Trains(language="full")}, r"trains\.language: \"lora\" then, \"full\" now"),
    ],
)
def test_what_decides_the_weights_must_be_the_same(
    config: TrainConfig, fields: dict, message: str
) -> None:
    train(config)
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(ConfigError, match=rf"config\.{message}"):
        train(replace(config, resume=True, **fields))


def test_a_full_disk_leaves_the_state_before(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, save_every=2)
    train(replace(config, max_steps=None, epochs=1))
    before = states(config.output / "state")
    assert before
    # No file may grow beyond what the first files of a state need: the next state does not fit.
    limited = (
        "import resource, sys; from vlm.cli import main; import signal;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "sys.exit(main(sys.argv[1:]))"
    )
    file = config.output.with_name("more.json")
    words = tiny_runs.command(replace(config, resume=True, force=True), file)
    done = subprocess.run(
        [words[0], "-c", limited, *words[3:]],
        env=tiny_runs.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "vlm: cannot write " in done.stderr.splitlines()[-1]
    assert "File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert states(config.output / "state") == before
    train(replace(config, resume=True, force=True))


def test_fewer_processes_wrote_it(config: TrainConfig, tmp_path: Path) -> None:
    train(replace(config, epochs=1))
    more = replace(config, resume=True, force=True)
    done = tiny_runs.run(more, tmp_path / "run.json", processes=2)
    assert done.returncode != 0
    assert "was written by fewer processes: it has no random-1.pt" in done.stderr

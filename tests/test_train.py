"""Whole runs of both stages, on tiny parts and random photos."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from rich.console import Console
from safetensors.torch import load_file, save_file

import vlm
from tests import tiny, tiny_runs
from tests.test_llava import make_llava
from tests.tiny_runs import elsewhere
from train import run as train_run
from train import start as train_start
from train.batch import collate
from train.config import TrainConfig, Trains
from train.loader import first_prompts
from train.loss import target_loss
from train.resume import states
from train.run import train
from vlm.config import LanguageConfig, LoraConfig, ModelConfig, ProjectorConfig, VisionConfig
from vlm.data.photos import decode
from vlm.data.read import read_sources
from vlm.data.source import DataSource
from vlm.errors import CheckpointError, ConfigError, VLMError
from vlm.vision import TransformerTower

VISION = "vision.model.encoder.layers."


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return tiny_runs.run_config(tmp_path)


@pytest.fixture
def instruct(config: TrainConfig) -> TrainConfig:
    return tiny_runs.instruct(config)


@torch.no_grad()
def held_out_loss(config: TrainConfig, model: vlm.VisionLanguageModel) -> float:
    """Mean loss of a supervised token of the held-out samples, each conversation on its own."""
    (found,) = read_sources(config.validation)
    losses, targets = 0.0, 0
    for sample, prompts in first_prompts(
        found.usable, lambda m: model.prompt(m, answer_next=False), config.seed, 512
    ):
        photos = [decode(photo) for photo in sample.photos] * len(prompts)
        batch = collate(prompts, model.vision.preprocessing.batch(photos))
        losses += float(model(batch, target_loss))
        targets += len(batch.target_ids)
    return losses / targets


def test_the_loss_falls_and_the_checkpoint_answers(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, epochs=8, workers=1)
    checkpoint = train(config)
    losses = tiny_runs.metrics(config)
    assert len(losses) == tiny_runs.metrics(config, "step")[-1] == 32
    assert losses[-1] < 0.8 * losses[0]
    assert tiny_runs.metrics(config, "learning_rate")[1] == config.learning_rate

    assert checkpoint == config.output / "checkpoint"
    assert all(name.startswith("projector.") for name in tiny_runs.weights(config))
    loaded = vlm.load(checkpoint, device="cpu")
    assert isinstance(loaded.chat("What is in the picture?", [tiny.photo()], max_tokens=4), str)

    told = capsys.readouterr().err
    table = [line.split("│") for line in told.splitlines() if "float32" in line]
    trainable = {cells[1].strip(): cells[3].strip() for cells in table}
    assert trainable == {"vision tower": "0", "projector": "1,856", "language model": "0"}
    assert "vision features are cached" in told
    assert f"vlm chat PHOTO --model {checkpoint}: talks to it" in told


def test_a_run_folder_says_what_was_done(config: TrainConfig) -> None:
    train(replace(config, trackers=["tensorboard"], answer_every=3))
    names = {path.name for path in config.output.iterdir()}
    assert names == {
        *("answers.jsonl", "checkpoint", "config.yaml", "loss.png", "metrics.jsonl", "run.json"),
        *("skipped.jsonl", "state", "trackers"),
    }
    assert (config.output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((config.output / "trackers").rglob("events.out.tfevents.*"))
    (entry,) = json.loads((config.output / "run.json").read_text(encoding="utf-8"))["runs"]
    assert entry["config"]["learning_rate"] == 1e-2
    assert entry["config"]["trains"]["language"] == "frozen"
    lines = (config.output / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert [answer["step"] for answer in answers] == [3] * 4 + [4] * 4 + [6] * 4 + [8] * 4
    assert {Path(answer["photo"]).name for answer in answers} == {f"{n}.png" for n in range(4)}
    assert answers[0]["question"] in config.data[0].questions


def test_the_same_run_twice_gives_the_same_bits(config: TrainConfig) -> None:
    train(config)
    train(elsewhere(config))
    assert tiny_runs.same(tiny_runs.weights(config), tiny_runs.weights(elsewhere(config)))
    other = elsewhere(config, "seed", seed=1)
    train(other)
    assert not tiny_runs.same(tiny_runs.weights(config), tiny_runs.weights(other))


def test_max_steps_ends_the_run_and_its_schedule(config: TrainConfig) -> None:
    train(replace(config, epochs=10, max_steps=3, warmup=0.0))
    shares = [rate / config.learning_rate for rate in tiny_runs.metrics(config, "learning_rate")]
    assert shares == pytest.approx([1, 0.75, 0.25])


def test_accumulation_equals_a_larger_batch(config: TrainConfig) -> None:
    parts = elsewhere(config, batch_size=1, accumulate=2)
    train(config)
    train(parts)
    assert len(tiny_runs.metrics(config)) == 8
    assert tiny_runs.metrics(parts) == pytest.approx(tiny_runs.metrics(config), rel=1e-5)


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_packing_does_not_change_the_losses(config: TrainConfig, stage: str) -> None:
    config = replace(config, stage=stage, batch_size=4, epochs=1)
    losses = []
    for pack in ("none", "image", "sequence"):
        other = elsewhere(config, pack, pack=pack)
        train(other)
        losses.append(tiny_runs.metrics(other))
    none, image, sequence = losses
    assert len(none) == 2
    assert image == pytest.approx(none, rel=1e-5)
    assert sequence == pytest.approx(none, rel=1e-5)


def test_gradient_checkpointing_changes_nothing(config: TrainConfig) -> None:
    config = replace(config, stage="instruct", epochs=1)
    train(config)
    train(elsewhere(config, gradient_checkpointing=True))
    losses = tiny_runs.metrics(elsewhere(config))
    assert losses == pytest.approx(tiny_runs.metrics(config), rel=1e-6)


@pytest.mark.parametrize(
    ("trains", "names"),
    [
        (None, {"projector.", ".lora_"}),
        (Trains(language="full"), {"projector.", "language."}),
        (Trains(language="lora", projector=False), {"projector.", ".lora_"}),
        (Trains(language="lora", vision_layers=1), {"projector.", ".lora_", f"{VISION}1."}),
        (Trains(language="full", vision_layers="all"), {"projector.", "language.", "vision."}),
    ],
)
def test_a_checkpoint_is_what_was_trained(
    instruct: TrainConfig, trains: Trains | None, names: set[str]
) -> None:
    config = replace(instruct, trains=trains, vision_learning_rate=1e-3)
    checkpoint = train(config)
    weights = tiny_runs.weights(config)
    assert {name for name in names if any(name in tensor for tensor in weights)} == names
    assert all(any(name in tensor for name in names) for tensor in weights)
    loaded = vlm.load(checkpoint, device="cpu")
    # Of a part that changed although it was to be frozen, the checkpoint would know nothing.
    (told,) = tiny_runs.metrics(config, "validation_loss")
    assert held_out_loss(config, loaded) == pytest.approx(told, rel=1e-4)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_parts_have_learning_rates_of_their_own(instruct: TrainConfig) -> None:
    trains = Trains(language="full", vision_layers=1)
    rates = {"learning_rate": 1e-30, "vision_learning_rate": 1e-3, "projector_learning_rate": 1e-30}
    train(replace(instruct, trains=trains, **rates))
    torch.manual_seed(instruct.seed)
    before = vlm.build(instruct.model, "cpu").state_dict()
    changed = [
        name
        for name, weight in tiny_runs.weights(instruct).items()
        if not weight.equal(before[name])
    ]
    assert changed
    assert all(name.startswith(VISION) for name in changed)


def test_adapters_on_four_bit_weights(instruct: TrainConfig) -> None:
    pytest.importorskip("bitsandbytes")
    # Widths of multiples of bitsandbytes' block.
    tiny.language_model(hidden=64).model.save_pretrained(instruct.model.language.source)
    config = replace(instruct, trains=Trains(language="qlora"))
    checkpoint = train(config)
    assert all(".lora_" in n or n.startswith("projector.") for n in tiny_runs.weights(config))
    loaded = vlm.load(checkpoint, device="cpu")
    assert loaded.config.language.load_in == "4bit"
    (told,) = tiny_runs.metrics(config, "validation_loss")
    assert held_out_loss(config, loaded) == pytest.approx(told, rel=1e-3)


def test_stage_2_starts_from_stage_1(config: TrainConfig, instruct: TrainConfig) -> None:
    first = train(config)
    second = elsewhere(instruct, start=str(first), model=ModelConfig(), learning_rate=1e-30)
    train(second)
    begun, weights = tiny_runs.weights(config), tiny_runs.weights(second)
    assert all(weights[name].equal(weight) for name, weight in begun.items())
    assert sum(".lora_" in name for name in weights) == len(weights) - len(begun) > 0
    # The third starts from the adapters of the second.
    third = elsewhere(second, "third", start=str(second.output / "checkpoint"))
    train(third)
    for name, weight in tiny_runs.weights(third).items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-20)


def test_adapters_of_another_rank_to_start_from(config: TrainConfig, instruct: TrainConfig) -> None:
    first = train(config)
    lora = ModelConfig(language=LanguageConfig(lora=LoraConfig(rank=2)))
    second = elsewhere(instruct, start=str(first), model=lora)
    train(second)
    ranks = {w.shape[0] for name, w in tiny_runs.weights(second).items() if "lora_A" in name}
    assert ranks == {2}


def test_adapters_that_are_there_take_another_dropout_and_nothing_else(
    instruct: TrainConfig,
) -> None:
    first = elsewhere(instruct, "first")
    train(first)
    there = first.model.language.lora

    def second(name: str, lora: LoraConfig | None) -> TrainConfig:
        model = ModelConfig(language=LanguageConfig(lora=lora))
        return elsewhere(instruct, name, start=str(first.output / "checkpoint"), model=model)

    runs = [second("plain", None), second("dropout", replace(there, dropout=0.5))]
    for run in runs:
        train(run)
    plain, dropout = map(tiny_runs.weights, runs)
    assert any(not weight.equal(dropout[name]) for name, weight in plain.items())
    with pytest.raises(ConfigError) as told:
        train(second("other", replace(there, rank=there.rank + 1)))
    assert str(told.value) == (
        f"start={first.output / 'checkpoint'} has adapters (rank {there.rank}, alpha "
        f"{there.alpha}, dropout 0.0, targets all-linear): model.language.lora can give them "
        "another dropout and nothing else"
    )


@pytest.mark.parametrize("start", ["own", "embedded"])
def test_a_start_of_another_model(config: TrainConfig, start: str) -> None:
    if start == "own":
        start = str(train(config))
    other = replace(config.model, projector=ProjectorConfig("linear"))
    with pytest.raises(ConfigError, match=f"^start={start} says what the model is made of: leave"):
        train(elsewhere(config, start=start, model=other))


def test_stages_grow_from_few_pixels_to_many(config: TrainConfig) -> None:
    first = train(config)
    model = ModelConfig(VisionConfig(image_size=48))
    changes = {"model": model, "learning_rate": 1e-30}
    second = elsewhere(replace(config, cache="off"), start=str(first), **changes)
    grown = vlm.load(train(second), device="cpu")
    assert tiny_runs.same(tiny_runs.weights(config), tiny_runs.weights(second))
    assert grown.config.vision == replace(config.model.vision, image_size=48)
    assert (grown.projector.num_tokens, vlm.load(first).projector.num_tokens) == (36, 16)


def test_a_start_that_is_no_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty is no checkpoint: it has neither vlm_config"):
        train(replace(config, start=str(tmp_path / "empty")))


def test_training_starts_from_a_llava_folder(instruct: TrainConfig, tmp_path: Path) -> None:
    make_llava(tmp_path / "llava")
    start = str(tmp_path / "llava")
    config = replace(instruct, start=start, model=ModelConfig(), learning_rate=1e-30)
    checkpoint = train(config)
    original = vlm.load(start, device="cpu").state_dict()
    projector = {n: w for n, w in tiny_runs.weights(config).items() if n.startswith("projector.")}
    assert projector
    assert all(weight.equal(original[name]) for name, weight in projector.items())
    assert vlm.load(checkpoint).config.llava == start


def test_the_best_epoch_is_kept(config: TrainConfig, tmp_path: Path) -> None:
    # The held-out caption contradicts the one that is learned by heart.
    sources = []
    for name, caption in (("one", "A A A A A A"), ("other", "B C D E F G")):
        file = Path(config.data[0].path).with_name(f"{name}.jsonl")
        file.write_text(json.dumps({"image": "0.png", "captions": [caption]}), encoding="utf-8")
        sources.append(DataSource(str(file)))
    config = replace(config, data=sources[:1], validation=sources[1:], epochs=4, cache="off")
    checkpoint = train(config)
    losses = tiny_runs.metrics(config, "validation_loss")
    assert len(losses) == 4
    assert min(losses) < losses[-1]
    loaded = vlm.load(checkpoint, device="cpu")
    assert held_out_loss(config, loaded) == pytest.approx(min(losses), rel=1e-5)


def test_validation_within_an_epoch(instruct: TrainConfig) -> None:
    train(replace(instruct, batch_size=1, validate_every=2))
    rows = [row for row in tiny_runs.rows(instruct) if "validation_loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 5]


def test_an_average_of_the_weights_is_kept(config: TrainConfig) -> None:
    train(config)
    train(elsewhere(config, ema=0.9999))
    train(elsewhere(config, "begun", learning_rate=1e-30))
    assert tiny_runs.metrics(config) == tiny_runs.metrics(elsewhere(config))
    ends, averages, begun = (
        tiny_runs.weights(c) for c in (config, elsewhere(config), elsewhere(config, "begun"))
    )
    for name, average in averages.items():
        assert not average.equal(begun[name])
        torch.testing.assert_close(average, begun[name], rtol=0, atol=1e-3)
    assert not tiny_runs.same(averages, ends)


def test_losses_that_are_no_number_are_skipped_and_counted(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, learning_rate=1e30, max_skipped=3)
    with pytest.raises(
        VLMError,
        match=r"^loss or gradient was nan at step 5, which makes 4 such steps, more than "
        "max_skipped: lower learning_rate$",
    ):
        train(config)
    skipped = [row["step"] for row in tiny_runs.rows(config) if "skipped" in row]
    assert skipped == [2, 3, 4, 5]
    assert "step 2 skipped: its loss or gradient is nan" in capsys.readouterr().err


def test_a_validation_loss_that_is_no_number(instruct: TrainConfig) -> None:
    config = replace(instruct, learning_rate=1e30, max_skipped=100, epochs=2)
    with pytest.raises(
        VLMError,
        match=r"^the loss of the held-out samples is nan at step 3: lower learning_rate, or look",
    ):
        train(config)
    assert not (config.output / "checkpoint").exists()


def test_gradients_that_no_scale_makes_finite_are_counted(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = train_run.prepare

    def broken(model: vlm.VisionLanguageModel, groups: list[dict], *rest: object) -> tuple:
        groups[0]["params"][0].register_hook(lambda gradient: gradient * math.nan)
        return prepare(model, groups, *rest)

    monkeypatch.setattr(train_run, "prepare", broken)
    tiny_runs.compute_in_float16(monkeypatch, 4.0)
    with pytest.raises(VLMError, match=r"gradient was nan at step 5, which makes 3 such steps"):
        train(replace(config, max_skipped=2))
    assert [row["step"] for row in tiny_runs.rows(config) if "skipped" in row] == [3, 4, 5]


def test_the_environment_does_not_divide_gradients(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    train(elsewhere(config))
    assert tiny_runs.metrics(elsewhere(config), "gradient_norm") == tiny_runs.metrics(
        config, "gradient_norm"
    )


@pytest.mark.parametrize(("has_bfloat16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_precision_on_a_gpu(
    has_bfloat16: bool, expected: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bfloat16)
    assert train_start.precision(replace(config, precision="auto")) == expected
    assert train_start.precision(replace(config, precision="fp32")) == "no"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the accelerator decides")
def test_precision_on_a_cpu_is_kept_when_the_run_is_resumed_on_another(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = replace(config, epochs=1, precision="auto", cache="off")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    train(replace(auto))
    assert "\ncomputes in bf16 on cpu\n" in f"\n{capsys.readouterr().err}"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    AcceleratorState._reset_state(reset_partial_state=True)
    train(replace(auto, resume=True))
    runs = json.loads((config.output / "run.json").read_text())["runs"]
    assert [run["config"]["precision"] for run in runs] == ["bf16", "bf16"]
    AcceleratorState._reset_state(reset_partial_state=True)
    train(elsewhere(auto))
    (run,) = json.loads((elsewhere(auto).output / "run.json").read_text())["runs"]
    assert run["config"]["precision"] == "fp32"


def test_frozen_weights_are_kept_in_what_they_are_computed_in(config: TrainConfig) -> None:
    config = replace(config, precision="bf16")
    config.resolve()
    accelerator = train_start.start(config)
    model, _ = train_run.build_to_train(config, accelerator, Console(quiet=True))
    dtypes = {name: next(part.parameters()).dtype for name, part in model.named_children()}
    half, whole = torch.bfloat16, torch.float32
    assert dtypes == {"vision": half, "projector": whole, "language": half}


def test_a_skipped_step_leaves_the_weights(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Photos of one batch whose features are no numbers, as a broken tower would give them.
    config = replace(config, epochs=1, batch_size=4, cache="off", warmup=0.0)
    train(elsewhere(config, max_steps=1))
    only = tiny_runs.metrics(elsewhere(config))

    passes = []
    forward = TransformerTower.forward

    def broken(tower: TransformerTower, pixel_values: torch.Tensor) -> torch.Tensor:
        passes.append(len(pixel_values))
        tokens = forward(tower, pixel_values)
        return tokens * math.nan if len(pixel_values) == 3 else tokens

    monkeypatch.setattr(TransformerTower, "forward", broken)
    train(config)
    assert 3 in passes
    losses = [row["loss"] for row in tiny_runs.rows(config) if "loss" in row]
    assert losses == [*only, None]
    assert [row["step"] for row in tiny_runs.rows(config) if "skipped" in row] == [2]
    assert all(weight.isfinite().all() for weight in tiny_runs.weights(config).values())


def test_a_signal_in_the_last_step_leaves_a_run_that_ends(config: TrainConfig) -> None:
    train(elsewhere(config))

    def told(step: int) -> None:
        if step == 7:
            signal.raise_signal(signal.SIGTERM)

    with (
        tiny_runs.after_each_step(told),
        pytest.raises(VLMError, match=r"^stopped by SIGTERM at step 8: --resume resumes"),
    ):
        train(config)
    assert states(config.output / "state")[-1].name == "step-00000008"
    train(replace(config, resume=True))
    assert tiny_runs.same(tiny_runs.weights(config), tiny_runs.weights(elsewhere(config)))
    lines = [(c.output / "answers.jsonl").read_text() for c in (config, elsewhere(config))]
    assert lines[0] == lines[1]


def test_bfloat16_trains_float32_weights(instruct: TrainConfig) -> None:
    config = replace(instruct, precision="bf16", epochs=4, gradient_checkpointing=True)
    checkpoint = train(config)
    losses = tiny_runs.metrics(config)
    assert losses[-1] < 0.9 * losses[0]
    assert {weight.dtype for weight in tiny_runs.weights(config).values()} == {torch.float32}
    loaded = vlm.load(checkpoint, device="cpu", dtype=torch.bfloat16)
    assert isinstance(loaded.chat("What is it?", tiny.photo(), max_tokens=2), str)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in float16")
def test_float16_needs_a_gpu(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"^precision=fp16 needs a GPU: choose bf16 or fp32$"):
        train(replace(config, precision="fp16"))


def test_a_precision_that_only_accelerate_knows(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = SimpleNamespace(mixed_precision="fp8", device=torch.device("cuda"))
    monkeypatch.setattr(train_start, "Accelerator", lambda **_: accelerator)
    with pytest.raises(ConfigError, match=r"^accelerate's fp8 is not supported: launch with bf16,"):
        train_start.start(config)


def test_an_output_that_cannot_be_written(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VLMError, match=r"^cannot (write|make) .*file/run.*: Not a directory$"):
        train(replace(config, output=tmp_path / "file" / "run"))


def test_a_tensor_that_does_not_fit(config: TrainConfig) -> None:
    checkpoint = train(config)
    tensors = load_file(checkpoint / "model.safetensors")
    tensors.pop("projector.projection.linear_1.bias")
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"linear_1\.bias is missing"):
        train(elsewhere(config, start=str(checkpoint), model=ModelConfig()))

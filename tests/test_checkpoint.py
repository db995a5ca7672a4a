"""Checkpoints: what is saved is what is loaded, and a folder that does not fit is refused."""

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vlm
from eval.answerers import label_of, weights_of
from tests import tiny, tiny_folders
from vlm.checkpoint import CONFIG_FILE, TENSOR_FILE, load_tensors, read, require_new
from vlm.config import LanguageConfig, LoraConfig, ModelConfig, ProjectorConfig
from vlm.errors import CheckpointError, ConfigError
from vlm.files import replace_folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_folders.model_config(tmp_path_factory.mktemp("parts"), projector=SMALL)


@pytest.fixture
def saved(config: ModelConfig, tmp_path: Path) -> Path:
    vlm.build(config, "cpu").save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


SMALL = ProjectorConfig(kind="linear")
PROJECTORS = [
    SMALL,
    ProjectorConfig(kind="mlp"),
    ProjectorConfig(kind="mlp", input_norm=True, reduce="shuffle"),
    ProjectorConfig(kind="linear", reduce="pool", reduce_factor=4),
    ProjectorConfig(kind="resampler", queries=4, depth=1, heads=2),
]


def trained(model: vlm.VisionLanguageModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name in model.trained}


@pytest.mark.parametrize("projector", PROJECTORS, ids=lambda p: f"{p.kind} {p.reduce}")
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2), LoraConfig(targets=["q_proj"])])
def test_round_trip(
    config: ModelConfig, projector: ProjectorConfig, lora: LoraConfig | None, tmp_path: Path
) -> None:
    language = LanguageConfig(config.language.source, lora=lora)
    model = vlm.build(ModelConfig(config.vision, projector, language), "cpu").eval()
    for tensor in trained(model).values():
        torch.nn.init.normal_(tensor)
    model.save(tmp_path / "checkpoint")
    loaded = vlm.load(tmp_path / "checkpoint", device="cpu")

    assert loaded.config == model.config
    assert loaded.trained == model.trained
    assert any(".lora_" in name for name in model.trained) == (lora is not None)
    for name, tensor in trained(loaded).items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    question = [{"type": "image", "image": tiny.photo()}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": question}]
    # The adapters of what is loaded are merged, which rounds otherwise.
    torch.testing.assert_close(
        loaded.logits(messages), model.logits(messages), rtol=1e-3, atol=1e-3 if lora else 0
    )


def with_adapters(config: ModelConfig, **language: object) -> ModelConfig:
    adapted = LanguageConfig(config.language.source, lora=LoraConfig(rank=2), **language)
    return ModelConfig(config.vision, ProjectorConfig(), adapted)


def randomise_adapters(model: vlm.VisionLanguageModel) -> None:
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)


def test_a_loaded_model_with_adapters_is_saved_and_exported_as_it_was(
    config: ModelConfig, tmp_path: Path
) -> None:
    model = vlm.build(with_adapters(config), "cpu").eval()
    randomise_adapters(model)
    model.save(tmp_path / "first")
    loaded = vlm.load(tmp_path / "first", device="cpu")
    loaded.save(tmp_path / "second")
    loaded.export_llava(tmp_path / "llava")
    first, second = (load_file(tmp_path / name / TENSOR_FILE) for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    exported = vlm.load(tmp_path / "llava", device="cpu", prompt="chatml")
    torch.testing.assert_close(
        exported.logits("What is in the picture?"),
        model.logits("What is in the picture?"),
        rtol=1e-3,
        atol=1e-3,
    )


def test_adapters_of_quantised_weights_come_in_the_models_dtype(
    config: ModelConfig, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    model = vlm.build(with_adapters(config, load_in="4bit"), "cpu").eval()
    randomise_adapters(model)
    expected = model.logits("What is in the picture?")
    model.save(tmp_path / "checkpoint")
    loaded = vlm.load(tmp_path / "checkpoint", device="cpu")
    assert torch.equal(loaded.logits("What is in the picture?"), expected)
    half = vlm.load(tmp_path / "checkpoint", device="cpu", dtype=torch.bfloat16)
    adapters = {p.dtype for name, p in half.named_parameters() if ".lora_" in name}
    assert adapters == {torch.bfloat16}


@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_trained_weights_do_not_go_into_quantised_ones(
    config: ModelConfig, tmp_path: Path, load_in: str
) -> None:
    pytest.importorskip("bitsandbytes")
    model = vlm.build(config, "cpu")
    name = "language.model.model.layers.0.mlp.up_proj.weight"
    model.trained.add(name)
    model.save(tmp_path / "checkpoint")
    message = rf"does not fit the model: {name} is quantised in the model, leave out load_in"
    with pytest.raises(CheckpointError, match=message):
        vlm.load(tmp_path / "checkpoint", device="cpu", load_in=load_in)


def test_only_the_required_tensors_must_be_there(saved: Path, config: ModelConfig) -> None:
    """A second stage has adapters that the first one's checkpoint knows nothing of."""
    source = LanguageConfig(config.language.source, lora=LoraConfig(rank=2))
    model = vlm.build(ModelConfig(config.vision, SMALL, source), "cpu")
    with pytest.raises(CheckpointError, match=r"\.lora_A\.default\.weight is missing"):
        load_tensors(model, saved / TENSOR_FILE)
    load_tensors(model, saved / TENSOR_FILE, required={WEIGHT, BIAS})
    assert torch.equal(model.state_dict()[WEIGHT], load_file(saved / TENSOR_FILE)[WEIGHT])


def test_only_the_two_files_are_written(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [TENSOR_FILE, CONFIG_FILE]
    assert list(saved.parent.iterdir()) == [saved]
    assert all(name.startswith("projector.") for name in load_file(saved / TENSOR_FILE))


def test_half_precision_halves_the_file(config: ModelConfig, tmp_path: Path) -> None:
    model = vlm.build(config, "cpu")
    model.save(tmp_path, dtype=torch.float16)
    assert {t.dtype for t in load_file(tmp_path / TENSOR_FILE).values()} == {torch.float16}
    for name, tensor in trained(vlm.load(tmp_path, device="cpu")).items():
        assert torch.equal(tensor, model.state_dict()[name].half().float())


def test_load_passes_dtype_and_prompt_on(saved: Path) -> None:
    model = vlm.load(saved, device="cpu", dtype=torch.bfloat16, prompt="vicuna")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.language.prompt == "vicuna"
    told = "^language.prompt must be 'auto', 'chatml', 'vicuna' or 'template', not 'alpaca'$"
    with pytest.raises(ConfigError, match=told):
        vlm.load(saved, prompt="alpaca")


def test_load_passes_load_in_on(saved: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = vlm.load(saved, device="cpu", load_in="4bit")
    assert model.config.language.load_in == "4bit"
    assert model.language.model.is_loaded_in_4bit


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / TENSOR_FILE)
        change(tensors)
        save_file(tensors, folder / TENSOR_FILE)

    return damage


WEIGHT, BIAS = "projector.projection.weight", "projector.projection.bias"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / CONFIG_FILE).unlink(), "is no checkpoint: it has neither"),
        (
            lambda folder: (folder / CONFIG_FILE).write_text('{"audio": {}}'),
            rf"cannot read .*{CONFIG_FILE}: no setting `audio`",
        ),
        (lambda folder: (folder / CONFIG_FILE).write_bytes(b"\xff"), "cannot read .*codec"),
        (lambda folder: (folder / TENSOR_FILE).unlink(), f"cannot read .*{TENSOR_FILE}: No such"),
        (
            lambda folder: os.truncate(folder / TENSOR_FILE, 500),
            f"cannot read .*{TENSOR_FILE}: .*incomplete",
        ),
        (change_tensors(lambda t: t.pop(BIAS)), rf"does not fit the model: {BIAS} is missing$"),
        (
            change_tensors(lambda t: t.update({"projector.more": torch.ones(1)})),
            r"does not fit the model: projector\.more is not in the model$",
        ),
        (
            change_tensors(lambda t: t.update({WEIGHT: torch.ones(2, 3)})),
            rf"does not fit the model: {WEIGHT} is \(2, 3\), the model has \(32, 24\)$",
        ),
        (
            change_tensors(lambda t: t.update({f"{i}": torch.ones(1) for i in range(5)})),
            "0 is not in the model; 1 is not in the model; 2 is not in the model and 2 more$",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    saved: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(saved)
    with pytest.raises(CheckpointError, match=message):
        vlm.load(saved, device="cpu")


def test_saving_replaces_a_checkpoint(saved: Path, config: ModelConfig) -> None:
    model = vlm.build(config, "cpu")
    torch.nn.init.ones_(model.state_dict()[BIAS])
    model.save(saved)
    assert load_file(saved / TENSOR_FILE)[BIAS].eq(1).all()
    assert list(saved.parent.iterdir()) == [saved]


def test_saving_over_another_folder_is_refused(config: ModelConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(
        CheckpointError, match=rf"is there already and has no {CONFIG_FILE}: choose"
    ):
        vlm.build(config, "cpu").save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_new_checkpoint_needs_a_place_where_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for place in ("empty", "none", "none/below"):
        require_new(tmp_path / place)
    message = r"is there already: choose another output folder, or remove it$"
    for place in (tmp_path, tmp_path / "file", Path("~")):
        with pytest.raises(CheckpointError, match=message):
            require_new(place)


@pytest.mark.parametrize("place", ["file", "file/checkpoint"])
def test_a_place_that_cannot_be_written(config: ModelConfig, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=rf"^cannot write {tmp_path / place}: .*Not a dir"):
        vlm.build(config, "cpu").save(tmp_path / place)


def crash_while_writing(folder: Path) -> None:
    def write(partial: Path) -> None:
        (partial / CONFIG_FILE).write_text("half", encoding="utf-8")
        os._exit(9)

    replace_folder(folder, write, holds=CONFIG_FILE)


def test_a_crash_while_saving_leaves_the_old_checkpoint(saved: Path, config: ModelConfig) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    process = multiprocessing.get_context("fork").Process(target=crash_while_writing, args=[saved])
    process.start()
    process.join()
    assert process.exitcode == 9
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    vlm.build(config, "cpu").save(saved)
    assert list(saved.parent.iterdir()) == [saved]


def test_an_error_while_saving_leaves_nothing_behind(saved: Path) -> None:
    def write(partial: Path) -> None:
        (partial / CONFIG_FILE).write_text("half", encoding="utf-8")
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(CheckpointError, match=r"cannot write .*: .*No space left on device"):
        replace_folder(saved, write, holds=CONFIG_FILE)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_run_stands_for_its_checkpoint(saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "x"
    shutil.copytree(saved, run / "checkpoint")
    (run / "config.yaml").touch()
    assert (
        read(run) == read(run / "checkpoint") == (read(saved)[0], run / "checkpoint" / TENSOR_FILE)
    )
    assert weights_of(str(run)) == weights_of(str(saved)) != weights_of("embedded")
    assert label_of(str(run)) == label_of(str(run / "checkpoint")) == "x"
    (run / "checkpoint" / "vlm_config.json").unlink()
    with pytest.raises(CheckpointError, match="x is no checkpoint: it has neither vlm_config"):
        read(run)

"""Every preset is a config that `vlm train` reads."""

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from train.config import TrainConfig
from train.embedded.__main__ import STAGES
from vlm.data.read import read_sources
from vlm.options import parse

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = sorted(CONFIGS.glob("*.yaml"))


def config(file: Path) -> TrainConfig:
    """What a preset says."""
    return parse("vlm train", TrainConfig, [str(file)])


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_a_preset_is_a_few_lines_over_the_defaults(file: Path) -> None:
    read = config(file)
    read.resolve()
    assert file.stem.endswith(f"-{read.stage}")
    assert read.output.parts[0] == "runs"
    assert len(yaml.safe_load(file.read_text(encoding="utf-8"))) <= 12


@pytest.mark.parametrize(
    "name",
    [
        "embedded",
        "clip-b16_smollm2-135m",
        "clip-l14-336_smollm2-360m",
        "siglip2-b16_qwen2.5-0.5b",
        "siglip2-b16-384-tiles_qwen2.5-0.5b",
        "clip-l14-336_vicuna-7b",
    ],
)
def test_stage_two_starts_from_stage_one(name: str) -> None:
    align = config(CONFIGS / f"{name}-align.yaml")
    instruct = config(CONFIGS / f"{name}-instruct.yaml")
    assert instruct.start == str(align.output / "checkpoint")


def test_the_example_starts_from_the_embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    example = config(Path("examples/train.yaml"))
    example.resolve()
    assert (example.start, example.stage) == ("embedded", "instruct")
    (captions,) = read_sources(example.data)
    assert (len(captions.usable), captions.skipped) == (4, [])


def test_the_stages_of_the_embedded_model_follow_each_other() -> None:
    """As their README has them: each from what an earlier one, or a mean, has left."""
    embedded = CONFIGS.parent / "train" / "embedded"
    readme = (embedded / "README.md").read_text(encoding="utf-8")
    left = {"shipped", str(config(CONFIGS / "embedded-instruct.yaml").output / "checkpoint")}
    stages = {str(file.relative_to(CONFIGS.parent)): file for file in embedded.glob("configs/*")}
    commands = [line.split() for line in readme.splitlines() if line.startswith("vlm ")]
    ran = set()
    for _, command, target, *rest in commands:
        if command == "average":
            assert left.issuperset(rest)
            left.add(target)
        elif target in stages:
            read = config(stages[target])
            # Some ran more than once, with other seeds, and from somewhere else.
            options = dict(zip(rest[::2], rest[1::2], strict=True))
            assert options.get("--start", read.start) in left
            left.add(f"{options.get('--output', read.output)}/checkpoint")
            ran.add(target)
    assert ran == stages.keys()


def test_each_stage_of_the_recipe_starts_from_the_one_before() -> None:
    clip, *stages = (config(CONFIGS / "embedded" / f"{name}.yaml") for name in STAGES)
    assert clip.stage == "contrast"
    assert stages[0].model.vision.source == str(clip.output / "checkpoint")
    for before, stage in pairwise(stages):
        assert stage.start == str(before.output / "checkpoint")
    for stage in (clip, *stages):
        stage.resolve()
        # What is kept out for the figures is never trained on, nor looked at meanwhile.
        splits = {source.path: source.split for source in (*stage.data, *stage.validation)}
        assert not any("_test" in path for path in splits)
        assert "test" not in splits.values()


def test_llava_has_its_published_settings() -> None:
    align = config(CONFIGS / "clip-l14-336_vicuna-7b-align.yaml")
    instruct = config(CONFIGS / "clip-l14-336_vicuna-7b-instruct.yaml")
    for stage, rate, batch in ((align, 1e-3, 256), (instruct, 2e-5, 128)):
        stage.resolve()
        assert stage.learning_rate == rate
        assert 8 * stage.batch_size * stage.accumulate == batch
        assert (stage.epochs, stage.warmup, stage.weight_decay, stage.clip) == (1, 0.03, 0.0, 1.0)
    assert instruct.trains.language == "full"

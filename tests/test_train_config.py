"""Settings of a run: their bounds, and what a stage decides."""

import pytest

from train.config import TrainConfig, Trains
from vlm.config import LanguageConfig, LoraConfig, ModelConfig
from vlm.errors import ConfigError


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        *((name, 0, "at least 1") for name in ("epochs", "batch_size", "accumulate", "row_length")),
        *((name, 0, "at least 1") for name in ("keep", "max_steps", "max_length", "save_every")),
        *((name, 0, "at least 1") for name in ("validate_every", "answer_every")),
        *((name, -1, "at least 0") for name in ("weight_decay", "max_skipped", "workers")),
        *((name, 0.0, "above 0") for name in ("learning_rate", "projector_learning_rate", "clip")),
        *((name, -1.0, "above 0") for name in ("vision_learning_rate", "cache_gb")),
        ("learning_rate", float("nan"), "above 0"),
        *((name, 1.5, "from 0 to 1") for name in ("warmup", "allowed_unusable")),
        *((name, 1.0, "between 0 and 1") for name in ("ema", "beta2")),
        *(("seed", value, r"from 0 to 2\*\*32 - 1") for value in (-1, 2**32)),
    ],
)
def test_settings_out_of_range(field: str, value: float, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be {allowed}, not {value}$"):
        TrainConfig(data=[], **{field: value})


@pytest.mark.parametrize(
    ("stage", "trains", "language", "rate"),
    [
        ("align", None, "frozen", 1e-3),
        ("instruct", None, "lora", 2e-4),
        ("instruct", Trains(language="qlora"), "qlora", 2e-4),
        ("instruct", Trains(language="full"), "full", 2e-5),
        ("instruct", Trains(vision_layers=1), "frozen", 2e-5),
        ("align", Trains(language="lora"), "lora", 2e-4),
    ],
)
def test_a_stage_decides_what_is_left_open(
    stage: str, trains: Trains | None, language: str, rate: float
) -> None:
    config = TrainConfig(data=[], stage=stage, trains=trains)
    config.resolve()
    assert config.trains.language == language
    assert config.trains.projector
    assert config.learning_rate == rate
    adapts = language in ("lora", "qlora")
    assert config.model.language.lora == (LoraConfig() if adapts else None)
    assert config.model.language.load_in == ("4bit" if language == "qlora" else None)


def test_adapters_to_start_from_are_those_of_the_checkpoint() -> None:
    config = TrainConfig(data=[], stage="instruct", start="embedded")
    config.resolve()
    assert config.model.language.lora is None


def test_what_is_said_is_kept() -> None:
    language = LanguageConfig(lora=LoraConfig(rank=4), load_in="4bit")
    config = TrainConfig(
        data=[], stage="instruct", model=ModelConfig(language=language), learning_rate=3e-4
    )
    config.resolve()
    config.resolve()
    assert config.learning_rate == 3e-4
    assert config.model.language == LanguageConfig(lora=LoraConfig(rank=4), load_in="4bit")

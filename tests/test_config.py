"""Configs: the JSON of a checkpoint gives back what was written, and wrong values are named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm.config import (
    GenerationConfig,
    LanguageConfig,
    LoraConfig,
    ModelConfig,
    ProjectorConfig,
    VisionConfig,
    from_json,
    generation_of,
    to_json,
)
from vlm.errors import ConfigError

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
CONFIGS = st.builds(
    ModelConfig,
    vision=st.builds(
        VisionConfig, source=..., revision=..., layers=..., select=..., image_size=...
    ),
    projector=st.builds(ProjectorConfig, kind=..., input_norm=..., reduce=..., heads=...),
    language=st.builds(
        LanguageConfig,
        source=...,
        revision=...,
        load_in=...,
        prompt=...,
        lora=st.none() | st.builds(LoraConfig, rank=..., alpha=NUMBERS, targets=...),
    ),
    llava=...,
    llava_revision=...,
)


@given(config=CONFIGS)
def test_json_round_trip(config: ModelConfig) -> None:
    assert from_json(to_json(config)) == config


def test_fields_left_out_have_their_defaults() -> None:
    assert from_json('{"vision": {"layers": [-1]}, "language": {"lora": {"alpha": 8}}}') == (
        ModelConfig(
            vision=VisionConfig(layers=[-1]), language=LanguageConfig(lora=LoraConfig(alpha=8.0))
        )
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "^Invalid JSON: "),
        ("[" * 100_000, "^Invalid JSON: "),
        ("[]", "^Input should be an object$"),
        ('{"audio": 1}', "no setting `audio`: there are vision, projector, language, llava, "),
        (
            '{"vision": {"colour": 1}}',
            "vision has no setting `colour`: there are source, revision, ",
        ),
        ('{"vision": "a.yaml"}', r"vision must be settings such as .*, not 'a\.yaml'$"),
        (
            '{"vision": {"image_size": 2.5}}',
            r"vision.image_size must be a whole number, not 2\.5$",
        ),
        (
            '{"vision": {"image_size": "224"}}',
            r"image_size must be a whole number, not '224'$",
        ),
        ('{"vision": {"layers": [-2, true]}}', r"layers\[1\] must be a whole number, not True$"),
        ('{"projector": {"input_norm": 1}}', "input_norm must be true or false, not 1$"),
        (
            '{"projector": {"kind": "mpl"}}',
            "kind must be 'linear', 'mlp' or 'resampler', not 'mpl'$",
        ),
        ('{"projector": {"kind": null}}', "kind must be .* or 'resampler', not null$"),
        (
            '{"language": {"load_in": "3bit"}}',
            "load_in must be '4bit' or '8bit', not '3bit'$",
        ),
    ],
)
def test_wrong_json_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_json(text)


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ConfigError) as raised:
        from_json(json.dumps({"vision": "x" * 10_000}))
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"temperature": -0.1}, r"temperature must be 0 or more, not -0\.1"),
        ({"temperature": float("nan")}, "temperature must be 0 or more, not nan"),
        ({"top_p": 0.0}, r"top_p must be above 0 and at most 1, not 0\.0"),
        ({"top_p": 1.1}, r"top_p must be above 0 and at most 1, not 1\.1"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"beams": 0}, "beams must be at least 1, not 0"),
        ({"seed": 2**64}, r"seed must be from -2\*\*63 to 2\*\*64 - 1, not 18446744073709551616"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty must be above 0, not 0\.0"),
    ],
)
def test_generation_settings_out_of_range(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        GenerationConfig(**setting)


def test_one_stop_string_is_a_list_of_one() -> None:
    assert generation_of({"stop": "###"}).stop == ["###"]


def test_generation_settings_at_the_edge_of_their_range() -> None:
    GenerationConfig(max_tokens=1, temperature=0.0, top_p=1.0, top_k=1, repetition_penalty=0.1)

"""Settings: YAML is read as each setting wants it, and every mistake is told with what is right."""

import contextlib
import subprocess
import sys
from dataclasses import make_dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.config import TrainConfig
from vlm.data.source import DataSource
from vlm.errors import ConfigError
from vlm.options import optional
from vlm.settings import read, read_yaml, walk

SETTINGS = optional(TrainConfig)

CHOICES = {
    (name, choice)
    for name, setting, _ in walk(SETTINGS)
    for one in (setting.type, *get_args(setting.type))
    if get_origin(one) is Literal
    for choice in get_args(one)
}


@pytest.mark.parametrize(("name", "choice"), sorted(CHOICES))
def test_every_word_may_stand_in_yaml_unquoted(name: str, choice: str) -> None:
    *above, last = name.split(".")
    text = f"{last}: {choice}"
    for each in reversed(above):
        text = f"{each[:-2]}: [{{path: a, {text}}}]" if each[-1] == "]" else f"{each}: {{{text}}}"
    value = read(SETTINGS, read_yaml(text))
    for each in name.replace("[]", "").split("."):
        value = getattr(value[0] if isinstance(value, list) else value, each)
    assert value == choice


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        *((float, text, 1e-3) for text in ("1e-3", "1E-3", "0.001", "1.0e-3", "'1e-3'")),
        *((bool, text, True) for text in ("true", "yes", "on", "True", "ON")),
        *((bool, text, False) for text in ("false", "no", "off", "'off'")),
        *((str, text, text) for text in ("on", "no", "007", "1e-3", "2024-01-01", "1_000", "y")),
        *((str | None, text, None) for text in ("null", "~", "")),
        (str | None, "'null'", "null"),
        (int, "64", 64),
        (int, "!!int 64", 64),
        (str, "!!timestamp x", "x"),
        (list[str], "!!python/object:os.system [a]", ["a"]),
        (float, "5", 5.0),
        (float, "-.inf", float("-inf")),
        (int | Literal["all"], "all", "all"),
        (int | Literal["all"], "2", 2),
        (list[int], "2", [2]),
        (list[str] | None, "null", None),
        (Path, "on", Path("on")),
        (list[DataSource], "mine.json", [DataSource("mine.json")]),
        (list[DataSource], "[a.json, {path: b}]", [DataSource("a.json"), DataSource("b")]),
        (list[DataSource], "{path: a, limit: 5}", [DataSource("a", limit=5)]),
    ],
)
def test_the_type_of_a_setting_says_what_a_word_is(hint: object, text: str, value: object) -> None:
    found = read(make_dataclass("It", [("it", hint)]), read_yaml(f"it: {text}")).it
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "data: [{path: a, image: photos}]",
            "data[0] has no setting `image`: did you mean `images`?",
        ),
        ("data: [a, {pth: b}]", "data[1] has no setting `pth`: did you mean `path`?"),
        ("data: [{images: b}]", "data[0] lacks `path`"),
        ("data: null", "data must be a list, not null"),
        ("data: [[a]]", "data[0] must be settings such as `{path: ...}`, not a list"),
        ("learning_rate: 2e-3x", "learning_rate must be a number, not '2e-3x'"),
        ("learning_rate: 1,5", "learning_rate must be a number, not '1,5'"),
        ("epochs: 1.5", "epochs must be a whole number, not '1.5'"),
        ("resume: perhaps", "resume must be true or false, not 'perhaps'"),
        ("data: [{path: a, format: lava}]", "data[0].format must be 'conversations', 'captions', "),
        ("pack: tight", "pack must be 'none', 'image' or 'sequence', not 'tight'"),
        ("trains: {vision_layers: some}", "vision_layers must be a whole number or 'all', not 's"),
        ("trackers: [{}]", "trackers[0] must be text, not settings"),
        ("output: null", "output must be a path, not null"),
        (
            "trains: projector",
            "trains must be settings such as `{projector: ...}`, not 'projector'",
        ),
        (
            "model: {vision: clip}",
            "model.vision must be settings such as `{source: ...}`, not 'clip'",
        ),
        ("projector: {}", "did you mean `model.projector` or `trains.projector`?"),
        ("images: photos", "did you mean `data[].images` or `validation[].images`?"),
        (
            "data: [{path: a, epochs: 2}]",
            "no setting `epochs`: it does not belong inside `data[0]`",
        ),
        ("trains: {tower: 1}", "`tower`: there are projector, language, vision_layers"),
        ("lr: 1", "no setting `lr`"),
        ("null: 1", "no setting `None`"),
    ],
)
def test_a_mistake_is_told_with_what_is_right(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(SETTINGS, read_yaml(text))
    assert told in str(raised.value)


@given(
    st.recursive(
        st.none() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["data", "path", "model", "vision", "layers", "trains", "x"]), inner
            )
        ),
    )
)
def test_any_value_is_read_or_refused(values: object) -> None:
    if isinstance(values, dict):
        with contextlib.suppress(ConfigError):
            read(SETTINGS, values)


@pytest.mark.parametrize(
    ("words", "content", "status", "told"),
    [
        (
            ["train", "my.yaml"],
            "data: [{path: a, image: photos}]",
            2,
            "my.yaml: data[0] has no setting `image`: did you mean `images`?",
        ),
        (
            ["train", "my.yaml"],
            "data: []",
            2,
            "data needs at least one entry, such as `[{path: captions.jsonl}]`",
        ),
        (["train", "my.yaml"], "data: a.json", 1, "no data at 'a.json': no such file or folder"),
        (["eval", "a.json"], "", 1, "no data at 'a.json': no such file or folder"),
    ],
)
def test_a_mistake_is_told_before_torch_is_imported(
    tmp_path: Path, words: list[str], content: str, status: int, told: str
) -> None:
    (tmp_path / "my.yaml").write_text(content)
    code = f"import sys; from vlm.cli import main\nprint(main({words}), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"{status} False\n", f"vlm: {told}\n")

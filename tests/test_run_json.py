"""What a run folder says about its run, read back."""

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_jsonable_python

from train.run_json import describe, differences, fingerprint, source, starts
from vlm import cli
from vlm.config import LanguageConfig, LoraConfig, ModelConfig
from vlm.data.photos import FilePhoto
from vlm.data.sample import Message, Sample
from vlm.errors import DataError


@dataclass
class Part:
    path: str
    images: Path | None = None
    questions: list[str] = field(default_factory=lambda: ["What?", "null", "yes: no # maybe"])
    weight: float = 1.0


@dataclass
class Settings:
    """Of the kinds that a training config has.

    Args:
        data: parts.
        stage: one of two.
        model: a whole model.
        output: a folder.
        learning_rate: small.
        steps: maybe none.
        resume: yes or no.
    """

    data: list[Part]
    stage: Literal["align", "instruct"] = "align"
    model: ModelConfig = field(default_factory=ModelConfig)
    output: Path = Path("runs/a run")
    learning_rate: float = 2e-5
    steps: int | None = None
    resume: bool = False

    def check(self) -> None:
        """Nothing of it can be absent."""


RECEIVED: list[Settings] = []


def receive(config: Settings) -> None:
    """Stands for a command of the command line."""
    RECEIVED.append(config)


@pytest.fixture
def settings() -> Settings:
    language = LanguageConfig(load_in="4bit", lora=LoraConfig(targets=["q_proj", "v_proj"]))
    return Settings(
        data=[Part("Fotos für später/1e3.json"), Part("007", images=Path("/data/x"), weight=1e-6)],
        stage="instruct",
        model=ModelConfig(language=language),
    )


def test_the_config_is_read_back_by_the_command_line(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(tmp_path, settings, data="0", processes=1, resumed=False)
    command = (f"{__name__}:Settings", "receives", f"{__name__}:receive")
    monkeypatch.setitem(cli.COMMANDS, "train", command)
    assert cli.main(["train", str(tmp_path / "config.yaml"), "--steps", "7"]) == 0
    assert RECEIVED.pop() == replace(settings, steps=7)


def test_run_json_says_what_it_ran_on(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    describe(folder, settings, data="abc", processes=2, resumed=False)
    (entry,) = starts(folder)
    assert entry["config"] == to_jsonable_python(settings)
    assert entry["config"]["data"][1]["images"] == "/data/x"
    assert entry["data"] == "abc"
    assert entry["command"] == sys.argv
    # The package that a registry has may leave out what it was built for.
    assert entry["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert entry["packages"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert entry["hardware"]["processes"] == 2
    assert entry["hardware"]["cpu"]
    assert entry["hardware"]["memory"] > 2**28
    assert len(entry["hardware"]["gpus"]) == torch.cuda.device_count()
    age = datetime.now(UTC) - datetime.fromisoformat(entry["started"])
    assert 0 <= age.total_seconds() < 600
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "run.json"]


def test_a_resumed_run_adds_an_entry(settings: Settings, tmp_path: Path) -> None:
    describe(tmp_path, settings, data="old", processes=1, resumed=True)
    describe(tmp_path, replace(settings, steps=3), data="new", processes=1, resumed=True)
    assert [entry["data"] for entry in starts(tmp_path)] == ["old", "new"]
    assert [entry["config"]["steps"] for entry in starts(tmp_path)] == [None, 3]
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["steps"] == 3
    describe(tmp_path, settings, data="anew", processes=1, resumed=False)
    assert [entry["data"] for entry in starts(tmp_path)] == ["anew"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"runs": [{'])
def test_a_damaged_run_json(settings: Settings, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"run\.json is damaged: remove it to resume"):
        describe(tmp_path, settings, data="0", processes=1, resumed=True)
    assert (tmp_path / "run.json").read_text(encoding="utf-8") == text


def test_a_folder_that_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot write .*file/run/run\.json: Not a directory"):
        describe(tmp_path / "file" / "run", settings, data="0", processes=1, resumed=False)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name / "run_json.py" for name in ("train", "vlm")]
    for file in files:
        file.parent.mkdir()
        file.write_text("1", encoding="utf-8")
    assert source(tmp_path) is None
    git(tmp_path, "init")
    # A copy that lies in a checkout of something else.
    git(tmp_path, "commit", "--allow-empty", "-m", "other")
    assert source(tmp_path) is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "source")
    clean = {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    assert source(tmp_path) == clean
    (tmp_path / "notes.txt").write_text("beside the source", encoding="utf-8")
    assert source(tmp_path) == clean
    (tmp_path / "train" / "new.py").write_text("2", encoding="utf-8")
    assert source(tmp_path) == clean | {"dirty": True}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source(tmp_path) is None


def test_differences_by_hand() -> None:
    old = {
        "learning_rate": 0.001,
        "workers": 2,
        "data": [{"path": "a"}],
        "model": {"lora": None, "llava": "x", "source": "s"},
        "log": {"every": 1},
        "logs": 1,
        "gone": True,
    }
    new = {
        "learning_rate": 0.002,
        "workers": 8,
        "data": [{"path": "b"}, {"path": "c"}],
        "model": {"lora": {"rank": 4}, "llava": "y", "source": "s"},
        "log": {"every": 2},
        "logs": 2,
    }
    assert differences(old, new, free={"workers", "log", "model.llava"}) == [
        "learning_rate: 0.001 then, 0.002 now",
        'data.0.path: "a" then, "b" now',
        "model.lora: null then, not set now",
        "logs: 1 then, 2 now",
        "gone: true then, not set now",
        'data.1.path: not set then, "c" now',
        "model.lora.rank: not set then, 4 now",
    ]


def test_long_values_are_shortened() -> None:
    (line,) = differences({"text": "a" * 1000}, {"text": None})
    assert line.startswith('text: "aaa')
    assert line.endswith("... then, null now")
    assert len(line) < 100


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(config=st.dictionaries(st.text(), values))
def test_what_was_written_and_read_back_does_not_differ(config: dict[str, Any]) -> None:
    assert differences(json.loads(json.dumps(config)), to_jsonable_python(config)) == []


def conversation(question: str | int, answer: str, role: str = "assistant") -> tuple[Message, ...]:
    return Message("user", (question,)), Message(role, (answer,))


CAT = Sample("a.json:1", (FilePhoto(Path("cat.png")),), (conversation("What is it?", "A cat."),))
DOG = Sample(
    "a.json:2", (FilePhoto(Path("dog.png")),), (conversation(0, "A dog."),), ("What?", "Who?")
)


def test_the_fingerprint_is_that_of_the_samples() -> None:
    moved = replace(CAT, where="elsewhere:9")
    assert fingerprint([[CAT, DOG], []]) == fingerprint(iter([[moved, DOG], []]))
    assert len(fingerprint([])) == 64


@pytest.mark.parametrize(
    "sources",
    [
        [],
        [[CAT]],
        [[DOG, CAT]],
        [[CAT], [DOG]],
        [[CAT, DOG], []],
        [[CAT, DOG, DOG]],
        [[CAT, replace(DOG, photos=(FilePhoto(Path("cow.png")),))]],
        [[CAT, replace(DOG, questions=("What?Who?",))]],
        [[CAT, replace(DOG, conversations=DOG.conversations * 2)]],
        [[CAT, replace(DOG, conversations=(conversation(0, "A dog"),))]],
        # The number of a photo is not the text of it.
        [[CAT, replace(DOG, conversations=(conversation("0", "A dog."),))]],
        [[CAT, replace(DOG, conversations=(conversation(0, "A dog.", role="user"),))]],
    ],
)
def test_other_samples_have_another_fingerprint(sources: list[list[Sample]]) -> None:
    assert fingerprint(sources) != fingerprint([[CAT, DOG]])

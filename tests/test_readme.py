"""Commands of the READMEs: each is one that can be typed; those that need nothing are run."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from jsonargparse import capture_parser
from platformdirs import user_cache_path

from vlm.cli import COMMANDS, main, run

ROOT = Path(__file__).parents[1]


def commands() -> list[str]:
    """Every `vlm ...` and `python -m train.embedded...` of a block, however it is launched."""
    found = []
    for file in (ROOT / "README.md", ROOT / "train" / "embedded" / "README.md"):
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL):
            found += re.findall(r"(?m)^(?:.*-m |\$ )?(vlm\b.*|train\.embedded\..*)", block)
    return found


@pytest.mark.parametrize("line", commands())
def test_what_a_readme_says_can_be_typed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(line, comments=True)
    if program == "vlm":
        name = " ".join(words[: 2 if words[0] == "score" else 1])
        module, function = COMMANDS[name][0].split(":")
        words = words[len(name.split()) :]
    else:
        name, module, function = program, program, "main"
    called = getattr(import_module(module), function)
    capture_parser(run, name, called, words).parse_args(words)


def test_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval"]) == 0
    assert "easy-vqa" in capsys.readouterr().out


@pytest.mark.skipif(
    not (user_cache_path("vlm") / "smollm2-135m-instruct").exists(),
    reason="the embedded language model was not fetched yet",
)
def test_the_data_of_the_example_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["data", "examples/train.yaml", "--show", "4"]) == 0
    assert capsys.readouterr().out.count(" supervised") >= 4

"""The READMEs' commands: each can be typed. `make readme` runs those that need no hub, GPU or data
set, word for word."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from vlm.cli import COMMANDS, main
from vlm.options import parse

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
        target, *_ = COMMANDS[name]
        words = words[len(name.split()) :]
    else:
        name, target = program, f"{program}:main"
    assert parse(name, resolve_name(target), words) is not None


def test_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval"]) == 0
    assert "easy-vqa" in capsys.readouterr().out


def test_the_data_of_the_example_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["data", "examples/train.yaml", "--show", "4"]) == 0
    assert capsys.readouterr().out.count(" supervised") >= 4


NEEDS_MORE = (
    "make ",
    "llava-hf/",
    "openai/",
    "vicuna",
    "--hub",
    "localhost",
    "DATA",
    "--compare",
    "Q.json",
)
"""What a line says that needs a hub, a GPU, a server or a data set, or is run by CI anyway."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of somebody who follows the README: the repository's, with photos of their own."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("examples", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        shutil.copy(ROOT / "examples" / "rocket.jpg", folder / name)
    for name in ("my", "photos"):
        (folder / name).mkdir()
        shutil.copy(folder / "photo.jpg", folder / name)
    question = '{"image": "photo.jpg", "question": "What is this?", "answers": ["a rocket"]}\n'
    (folder / "my" / "questions.jsonl").write_text(question, encoding="utf-8")
    return folder


def lines_to_run() -> list[str]:
    """The lines of the README's shell blocks, and its Python block as one."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    runnable = [line for line in lines if line and not any(word in line for word in NEEDS_MORE)]
    return [*runnable, f"python -c {shlex.quote(snippet)}"]


@pytest.mark.readme
@pytest.mark.parametrize("line", lines_to_run())
def test_a_line_runs_as_it_stands(reader: Path, line: str) -> None:
    if line.startswith(("accelerate", "torchrun")):
        # Each of them begins the run of the example.
        shutil.rmtree(reader / "runs" / "example", ignore_errors=True)
    activate = Path(sys.executable).with_name("activate")
    try:
        done = subprocess.run(
            ["bash", "-c", f"source {activate}; {line}"],
            cwd=reader,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"still running, having said {(late.stderr or b'')[-2000:].decode()}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr

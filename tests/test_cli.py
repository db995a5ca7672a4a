"""The command line: every command is documented, every mistake is told in a line or two."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from vlm.cli import COMMANDS, main, options_and_words


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_help_and_version_need_no_torch() -> None:
    code = (
        "import sys; from vlm.cli import main; main(['--help']); main(['--version'])\n"
        "try: main(['chat', '--help'])\n"
        "finally: assert 'torch' not in sys.modules\n"
    )
    finished = run("-c", code)
    assert (finished.returncode, finished.stderr) == (0, "")
    for command in COMMANDS:
        assert f"vlm {command} " in finished.stdout
    assert "vlm 0." in finished.stdout


def test_python_m_vlm_is_the_command() -> None:
    assert run("-m", "vlm", "--help").stdout.startswith("usage: vlm COMMAND")


@pytest.mark.parametrize("words", ["--help", "chat --help"])
def test_a_reader_that_leaves_is_no_traceback(words: str) -> None:
    command = f'"{sys.executable}" -m vlm {words} | true'
    finished = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert finished.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_documents_every_option(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # no text is broken
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    module, name = COMMANDS[command][0].split(":")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    (config, *_) = parameters
    if config == "config":
        parameters = inspect.signature(parameters[config].annotation).parameters
    for option in parameters.keys() - {"generation", "words"}:
        assert option in shown
    undocumented = re.findall(r"\n.*\s{2,}\((?:type|required|default).*", shown)
    assert undocumented == []


@pytest.mark.parametrize("words", [["eval"], ["eval", "--help"], ["-h"], []])
def test_help_lists_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "vlm eval captions" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["dance"], ["eval", "dance"]])
def test_unknown_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert f"vlm: no command '{' '.join(words)}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chat", "--dance"], "unrecognized arguments: --dance"),
        (["chat", "--max_tokens", "many"], "Got value: many"),
        (["chat", "--load-in", "5bit"], "5bit"),
        (["chat", "What?", "--seed"], "expected one argument"),
        (["names"], "the following arguments are required: data"),
        (["names", "a", "b"], "unrecognized arguments: b"),
        (["train", "missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_options_end_with_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_an_error_of_a_command_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["names", str(tmp_path), "--threshold=2"]) == 1
    assert capsys.readouterr().err == "vlm: threshold must be from 0 to 1, not 2.0\n"


def test_options_and_words_may_mix() -> None:
    arguments = ["a b", "--load-in", "4bit", "c", "--json", "--max-tokens=3", "d", "--", "--e-f"]
    options, words = options_and_words(arguments, {"--json"})
    assert options == ["--load_in", "4bit", "--json", "--max_tokens=3"]
    assert words == ["a b", "c", "d", "--e-f"]

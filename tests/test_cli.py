"""The command line: every command is documented, every mistake is told in a line or two."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests import tiny_runs
from train.describe import resolved
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


@pytest.mark.parametrize("words", [["score"], ["--help"], ["-h"], []])
def test_help_lists_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "vlm score captions" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["dance"], ["score", "dance"]])
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


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A tiny training run as a user writes it; the epochs are many if nothing overrides them."""
    file = tmp_path / "preset.yaml"
    values = resolved(tiny_runs.run_config(tmp_path, epochs=50, data=[]))
    values["data"] = [{"path": str(tmp_path / "data" / "captions.jsonl"), "augment": True}]
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def test_the_command_line_overrides_the_preset(preset: Path, tmp_path: Path) -> None:
    words = ["train", str(preset), "--epochs", "1", "--batch_size", "7"]
    assert main([*words, "--model.projector.kind", "linear"]) == 0
    steps = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(steps) == 1
    written = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    assert sorted(written) == ["projector.projection.bias", "projector.projection.weight"]
    # Augmented photos have no features.
    assert not (tmp_path / "features").exists()


def test_flags_of_a_run(preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(preset), "--epochs", "1"]
    assert main(words) == 0
    assert main(words) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(
        "run holds a run already: --resume goes on with it, --force begins anew, or choose another "
        "output"
    )
    assert main([*words, "--resume"]) == 0
    assert "going on from step 4" in capsys.readouterr().err
    assert main([*words, "--resume", "--no_resume"]) == 1
    assert main([*words, "--resume", "--batch_size=1"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith("config.batch_size: 2 then, 1 now; --force goes on all the same")
    assert main([*words, "--force"]) == 0
    assert "going on" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 50", "epoch: 50", "epoch"),
        ("epochs: 50", "epochs: many", "many"),
        ("augment: true", "augment: perhaps", "perhaps"),
        ("augment: true", "mirror: true", "mirror"),
        ("language: frozen", "language: half", "half"),
        ("pack: image", "pack: tight", "tight"),
    ],
)
@pytest.mark.parametrize("command", ["train", "data"])
def test_a_wrong_preset_is_named(
    preset: Path,
    command: str,
    old: str,
    new: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = preset.read_text(encoding="utf-8").replace("trains: null", "trains: {language: frozen}")
    assert old in text
    preset.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main([command, str(preset)])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


@pytest.mark.parametrize("command", ["train", "data"])
def test_errors_of_a_run_are_one_line(
    preset: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(preset), "--epochs", "0"]) == 1
    assert capsys.readouterr().err == "vlm: epochs must be at least 1, not 0\n"


def test_training_data_are_shown(preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(preset), "--show", "2", "--max_length=512"]) == 0
    assert capsys.readouterr().out.count(" supervised") >= 2

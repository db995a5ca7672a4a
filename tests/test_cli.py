"""The command line: every command is documented, every mistake is told in a line or two."""

import gc
import inspect
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import pytest
import yaml
from pydantic_core import to_jsonable_python
from safetensors.torch import load_file
from torch import distributed
from torch.distributed import HashStore

from tests import tiny_runs
from train.config import TrainConfig, Trains
from vlm.cli import COMMANDS, main, run
from vlm.config import LanguageConfig, LoraConfig, ModelConfig, ProjectorConfig, VisionConfig
from vlm.data.source import DataSource
from vlm.errors import UsageError, VLMError
from vlm.options import parse


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_help_and_version_need_no_torch() -> None:
    code = (
        "import sys; from vlm.cli import main; main(['--help']); main(['--version'])\n"
        "for command in ('chat', 'train', 'data'): main([command, '--help'])\n"
        "assert 'torch' not in sys.modules\n"
    )
    finished = python("-c", code)
    assert (finished.returncode, finished.stderr) == (0, "")
    for command in COMMANDS:
        assert f"vlm {command} " in finished.stdout
    assert "vlm 0." in finished.stdout


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
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    target, *_ = COMMANDS[command]
    for option in inspect.signature(resolve_name(target)).parameters:
        assert re.search(rf"^  (--)?{option}\b", shown, re.MULTILINE)
    assert re.findall(r"(?m)^  \S+(?: \S+)*\n(?!    )", shown) == []
    # The settings of photos' sources are told once, not for `validation` too.
    assert len(re.findall(r"(?m)^  \S+\.columns\.image", shown)) == (command in ("train", "data"))


@pytest.mark.parametrize("words", [["score"], ["score", "--help"], ["--help"], ["-h"], []])
def test_help_lists_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "vlm score captions" in shown
    assert ("vlm chat" in shown) == ("score" not in words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chat", "--dance"], "no setting `dance`: there are max_tokens, "),
        (["chat", "--max-token", "5"], "no setting `max_token`: did you mean `max_tokens`?"),
        (["chat", "--max_tokens", "many"], "max_tokens must be a whole number, not 'many'"),
        (["chat", "--max_tokens", "0"], "max_tokens must be at least 1, not 0; see vlm chat "),
        (["chat", "--load-in", "5bit"], "load_in must be '4bit' or '8bit', not '5bit'"),
        (
            ["chat", "What?", "--seed"],
            "argument --seed: expected one argument; see vlm chat --help",
        ),
        (["score", "vqa"], "` is missing; see vlm score vqa --help"),
        (["average"], "`output` is missing; see vlm average --help"),
        (["average", "output"], "`checkpoints` is missing; see vlm average --help"),
        (["eval", "-x"], "no setting `x`; see vlm eval --help"),
        (["train"], "`data` is missing; see vlm train --help"),
        (["train", "--lora.rank", "8"], "no setting `lora`: did you mean `model.language.lora`?"),
        (
            ["train", "--trains.langage", "lora"],
            "trains has no setting `langage`: did you mean `la",
        ),
        (["train", "--trains.photo", "5"], "trains has no setting `photo`: there are projector, "),
        (["train", "--data.path", "a"], "no option --data.path; see vlm train --help"),
        (["train", "--data", "[a, b: {]"], "line 1: not YAML: "),
        (["train", "missing.yaml"], "missing.yaml: No such file or directory; see vlm train "),
        (["train", "--config", "missing.yaml"], "missing.yaml: No such file or directory"),
        (["score", "gqa", "Q", "--results", "R"], "unexpected word 'Q'"),
        (["dance"], "no command 'dance'; see vlm --help"),
        (["score", "dance"], "no command 'score dance'; see vlm --help"),
    ],
)
def test_wrong_options_end_with_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("vlm: ")
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it holds no settings; if it is data, write `data: FILE` in "),
        (b"# nothing\n", "it holds no settings"),
        (b"- a\n- b\n", "it holds no settings"),
        (b"[{}, {}", "it holds no settings"),
        (b"a word", "it holds no settings"),
        (b"a: " + b"1" * 2**20, "it holds no settings"),
        (b"\x89PNG", "not YAML: invalid start byte"),
        (b"\0", "not YAML: special characters are not allowed"),
        (b"epochs: 1\npack: [\n", "line 3: not YAML: expected the node content"),
        (b"epochs: 1\nbatch_size 4\n", "line 2: not YAML: could not find expected ':'"),
        (b"data: &a [*a]\n", "line 1: not YAML: found unconstructable recursive node"),
        (b"epochs: 1\nepochs: 2\n", "line 2: `epochs` is there twice"),
        (b"epoch: 2\n", "no setting `epoch`: did you mean `epochs`?"),
        (b"epochs: 0\n", "epochs must be at least 1, not 0; see vlm train --help"),
        (b"model: {projector: {kind: cube}}\n", "kind must be 'linear', 'mlp' or 'resampler', not"),
    ],
)
@pytest.mark.parametrize("option", [[], ["--config"]])
def test_a_wrong_config_is_named_in_one_line(
    tmp_path: Path,
    option: list[str],
    content: bytes,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right, wrong = tmp_path / "right.yaml", tmp_path / "wrong.yaml"
    right.write_text("data: a.jsonl\nepochs: 3\n", encoding="utf-8")
    wrong.write_bytes(content)
    assert main(["train", str(right), *option, str(wrong), "--epochs=1"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"vlm: {wrong}: ")
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", ["captions.jsonl", ""])
def test_data_in_the_place_of_a_config_hear_where_they_belong(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "captions.jsonl").write_text("{}\n{}\n")
    data = tmp_path / name
    assert main(["data", str(data)]) == 2
    told = f"vlm: {data}: it holds no settings; if it is data, write `data: FILE` in a YAML file"
    assert capsys.readouterr().err == f"{told}; see vlm data --help\n"


def test_a_wrong_option_is_not_said_of_a_right_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "right.yaml").write_text("epochs: 3\n")
    assert main(["train", str(tmp_path / "right.yaml"), "--batch_size=many"]) == 2
    assert capsys.readouterr().err.startswith("vlm: batch_size must be a whole number")


def test_a_config_may_come_through_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    out, into = os.pipe()
    os.write(into, b"data: [{path: none.jsonl}]\nepochs: 0\n")
    os.close(into)
    assert main(["train", f"/dev/fd/{out}"]) == 2
    os.close(out)
    assert "epochs must be at least 1, not 0" in capsys.readouterr().err


def test_ctrl_c_ends_with_status_130(tmp_path: Path) -> None:
    # Where the tests run in the background, it would be ignored.
    code = (
        "import signal, sys; from vlm.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-c", code, "data", str(pipe)], stderr=subprocess.PIPE, text=True
    )
    # Opened when the command reads it.
    with pipe.open("w"):
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "")


def test_garbage_is_collected_again_when_a_command_begins_and_ends() -> None:
    collected = []

    def command() -> None:
        collected.append(gc.isenabled())

    assert main([], lambda words: run("a", command, words)) == 0
    assert main(["--no-such-option"], lambda words: run("a", command, words)) == 2
    assert collected == [True]
    assert gc.isenabled()


def test_an_error_of_a_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = "score pope --questions a --questions b --results=c"
    assert main(words.split()) == 1
    told = "vlm: 2 files of questions but 1 of results: give one for each\n"
    assert capsys.readouterr().err == told


def called_with(*arguments: str) -> dict[str, Any]:
    """What a function is called with."""
    called: dict[str, Any] = {}

    def command(
        folder: Path,
        words: list[str],
        load_in: Literal["4bit"] | None = None,
        max_tokens: int = 9,
        json: bool = False,
        interactive: bool = False,
    ) -> None:
        called.update(locals())

    run("vlm command", command, list(arguments))
    return called


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("a b|--load-in|4bit|c|--json|--max-tokens=3|d", {"words": ["c", "d"], "json": True}),
        ("a b|c|--load-in|4bit|--max_tokens|3|d", {"words": ["c", "d"], "max_tokens": 3}),
        ("--json|a b|--|-c-d?|--load-in", {"words": ["-c-d?", "--load-in"], "json": True}),
        ("-i|a b|c", {"words": ["c"], "interactive": True}),
        ("a b|--interactive|--no-interactive|c", {"words": ["c"], "interactive": False}),
        ('a b|null|1|[c, d]|{c: d}|"e"', {"words": ["null", "1", "[c, d]", "{c: d}", '"e"']}),
    ],
)
def test_options_and_words_may_mix(arguments: str, given: dict[str, Any]) -> None:
    called = called_with(*arguments.split("|"))
    assert called["folder"] == Path("a b")
    assert called.items() >= given.items()


def test_options_come_after_files_and_the_settings_can_be_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("data: a.jsonl\nbatch_size: 2\nmodel: {vision: {resize: pad}}\nclip: .inf\n")
    second.write_text("batch_size: 3\nmodel: {projector: {kind: linear}}\n")
    words = ["--learning-rate", "5e-4", str(first), "--print_config", str(second), "--epochs=4"]
    more = ["--model.language.lora.rank", "8", "--data", "b.csv", "--data", "{path: c, limit: 5}"]
    assert (
        main(["train", *words, *more, "--trains.projector", "off", "--trains.language=lora"]) == 0
    )
    shown = capsys.readouterr().out
    (tmp_path / "shown.yaml").write_text(shown)
    again = parse("vlm train", TrainConfig, [str(tmp_path / "shown.yaml")])
    language = LanguageConfig(lora=LoraConfig(rank=8))
    assert again == TrainConfig(
        data=[DataSource("b.csv"), DataSource("c", limit=5)],
        model=ModelConfig(VisionConfig(resize="pad"), ProjectorConfig(kind="linear"), language),
        trains=Trains(projector=False, language="lora"),
        learning_rate=5e-4,
        batch_size=3,
        epochs=4,
        clip=math.inf,
    )


def test_a_command_may_take_its_options_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("max_tokens: 3\njson: true\n")
    called = called_with("a", "b", "--config", str(tmp_path / "options.yaml"), "--no_json")
    assert (called["max_tokens"], called["json"]) == (3, False)
    (tmp_path / "options.yaml").write_text("most: 3\n")
    with pytest.raises(UsageError, match=r"options.yaml: no setting `most`: there are folder, "):
        called_with("a", "b", "--config", str(tmp_path / "options.yaml"))


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A tiny training run as a user writes it; the epochs are many if nothing overrides them."""
    file = tmp_path / "preset.yaml"
    values = to_jsonable_python(tiny_runs.run_config(tmp_path, epochs=50, data=[]))
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
        "run holds a run already: --resume resumes it, --force begins anew, or choose another "
        "output"
    )
    assert main([*words, "--resume"]) == 0
    assert "resuming from step 4" in capsys.readouterr().err
    assert main([*words, "--resume", "--no_resume"]) == 1
    assert main([*words, "--resume", "--batch_size=1"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(
        "config.batch_size: 2 then, 1 now; --resume --force resumes it all the same"
    )
    assert main([*words, "--force"]) == 0
    assert "resuming" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
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
    assert main([command, str(preset)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"vlm: {preset}: ")
    assert message in told
    assert told.count("\n") == 1


def test_training_data_are_shown(preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(preset), "--show", "2", "--max_length=512"]) == 0
    assert capsys.readouterr().out.count(" supervised") >= 2


@pytest.mark.parametrize("error", [None, VLMError("no")])
def test_processes_leave_their_group(error: VLMError | None) -> None:
    def command(_: list[str]) -> None:
        distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        distributed.broadcast_object_list([None])
        if error is not None:
            raise error

    try:
        assert main([], command) == (error is not None)
        # After an error, others may still wait for what this one would have sent.
        assert distributed.is_initialized() == (error is not None)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()

"""`vlm data`: what is printed of training data."""

import json
import os
import random
import re
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests import tiny, tiny_folders
from tests.data_folders import asked, captions, save_lines, save_photos
from train.order import epoch_order
from train.preview import (
    Checked,
    PreviewConfig,
    check,
    print_samples,
    print_skipped,
    show,
    show_prompt,
    summary_table,
)
from vlm.cli import main
from vlm.config import ModelConfig
from vlm.data.photos import FilePhoto
from vlm.data.sample import Message, Sample, Samples, Skipped
from vlm.data.source import DataSource
from vlm.errors import ConfigError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_folders.model_config(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def config(tmp_path: Path, model: ModelConfig) -> PreviewConfig:
    """Two captioned photos, one of them broken; three questions, one of them without a photo."""
    save_photos(tmp_path, "a.png", "broken.png", "c.png")
    (tmp_path / "broken.png").write_bytes(b"no photo")
    lines = [{"image": name, "captions": ["a cat", "a dog"]} for name in ("a.png", "broken.png")]
    save_lines(tmp_path / "captions", *lines)
    questions = [
        {"image": image, "question": question, "answer": "cat"}
        for image, question in (("c.png", "Who?"), ("c.png", "Which?"), ("none.png", "Why?"))
    ]
    save_lines(tmp_path / "questions", *questions)
    sources = [DataSource(str(tmp_path / name)) for name in ("captions", "questions")]
    return PreviewConfig(sources, model=model, output=tmp_path / "run")


def test_of_contrastive_training_photos_are_shown_with_their_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_photos(tmp_path, "a.png")
    (tmp_path / "broken.png").write_bytes(b"no photo")
    lines = [
        {"image": name, "captions": ["A dog.", "One dog."]} for name in ("a.png", "broken.png")
    ]
    source = DataSource(str(save_lines(tmp_path / "captions", *lines)))
    show(PreviewConfig([source], stage="contrast"))
    told = capsys.readouterr().out
    assert told.startswith(f"{tmp_path}/a.png\n  A dog.\n  One dog.\n  a photo of a dog\n ")
    row = next(line for line in told.splitlines() if "captions" in line and "│" in line)
    assert [cell.strip() for cell in row.split("│")[3:6]] == ["1", "6", "3"]
    assert f"{tmp_path}/broken.png: broken image" in told


def console(**fields: object) -> Console:
    return Console(file=StringIO(), width=200, **fields)


def printed(to: Console) -> list[str]:
    assert isinstance(to.file, StringIO)
    return to.file.getvalue().splitlines()


def test_a_sample_is_printed_as_the_model_sees_it() -> None:
    model = tiny.vision_language_model()
    photo = FilePhoto(Path("[a].png"))
    sample = Sample("data, line 3", (photo,), (asked("What is it?", "A cat."),))
    messages = sample.messages(None)[0]
    prompt = model.prompt(messages, answer_next=False)
    plain, coloured = console(), console(force_terminal=True, color_system="standard")
    for to in (plain, coloured):
        print_samples([(sample, [prompt])], tiny.tokenizer(), to)
    answer = len(tiny.tokenizer().encode("A cat.", add_special_tokens=False))
    assert printed(plain) == [
        "data, line 3: [a].png",
        f"{len(prompt)} tokens, {tiny.PATCHES} of images, {answer + 1} supervised",
        "<|im_start|>user",
        f"<image x{tiny.PATCHES}>",
        "What is it?<|im_end|>",
        "<|im_start|>assistant",
        "A cat.<|im_end|>",
        "",
    ]
    assert "\x1b[32mA cat.<|im_end|>\x1b[0m" in "\n".join(printed(coloured))


def test_supervised_tokens_are_green() -> None:
    conversation = (Message("user", (0, "猫?")), Message("assistant", ("Ja 🙂",)))
    (messages,) = Sample("a", (FilePhoto(Path("a")),), (conversation,)).messages(None)
    prompt = tiny.vision_language_model().prompt(messages, answer_next=False)
    shown = show_prompt(prompt, tiny.tokenizer())
    assert [(str(span.style), shown.plain[span.start : span.end]) for span in shown.spans] == [
        ("dim", "<|im_start|>user\n"),
        ("bold magenta", f"<image x{tiny.PATCHES}>"),
        ("dim", "\n猫?<|im_end|>\n<|im_start|>assistant\n"),
        ("green", "Ja 🙂<|im_end|>"),
        ("dim", "\n"),
    ]


def test_a_text_only_sample_is_printed() -> None:
    messages = (Message("user", ("Why?",)), Message("assistant", ("So.",)))
    sample = Sample("data, line 1", (), (messages,))
    prompt = tiny.vision_language_model().prompt(sample.messages(None)[0], answer_next=False)
    to = console()
    print_samples([(sample, [prompt, prompt])], tiny.tokenizer(), to)
    assert printed(to)[0] == "data, line 1: no image"
    assert sum(", 0 of images, " in line for line in printed(to)) == 2


def test_broken_photos_and_long_texts_are_skipped(tmp_path: Path) -> None:
    save_photos(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    good, broken, gone = (
        Sample(name, (FilePhoto(tmp_path / f"{name}.png"),), captions("a cat", "a dog"))
        for name in "abc"
    )
    before = Skipped("z", "blank caption")
    blank = Counter({"blank caption": 2})
    found = Samples(DataSource("data"), "captions", [good, broken, gone], [before], blank)
    one = check(found, lambda sample: (["x" * 30, "x" * 20], 1))
    assert (one.count, one.lengths) == (3, [30, 20])
    assert [(one.where, one.reason) for one in one.skipped] == [
        ("z", "blank caption"),
        ("b", "broken image"),
        ("c", "broken image"),
    ]
    assert one.dropped == {"blank caption": 2, "answer cut or left out by max_length": 1}
    assert (found.skipped, found.dropped) == ([before], {"blank caption": 2})


def test_of_a_large_source_some_are_checked_by_seed(tmp_path: Path) -> None:
    samples = [Sample(str(number), (), ()) for number in range(30)]
    found = Samples(DataSource("data"), "captions", samples)

    def drawn(most: int | None, seed: int = 0) -> list[int]:
        lengths: list[int] = check(found, lambda s: ([[0] * int(s.where)], 0), most, seed).lengths
        assert lengths == sorted(set(lengths))
        return lengths

    assert len(drawn(9)) == 9
    assert drawn(9) == drawn(9) != drawn(9, seed=1)
    assert drawn(30) == drawn(None) == list(range(30))


def test_summary_by_hand() -> None:
    sample = Sample("a", (), ())
    skipped = [Skipped("x", "missing image"), Skipped("y", "too long"), Skipped("z", "too long")]
    first = Samples(DataSource("[red]"), "coco", [sample] * 1201, skipped[:2])
    second = Samples(DataSource("b"), "table", [], [])
    checked = [
        Checked(first, 1000, skipped, Counter(), [10, 2000, 30]),
        Checked(second, 0, [], Counter(), []),
    ]
    to = console()
    to.print(summary_table(checked))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed(to)]
    assert [row for row in rows if row] == [
        ["[red]", "coco", "1,200", "3", "30", "2,000", "2 too long, 1 missing image"],
        ["b", "table", "0", "0", "", "", "none"],
    ]


def test_no_column_is_cut_in_a_narrow_terminal() -> None:
    to = Console(file=StringIO(), width=80)
    found = Samples(DataSource("a/long/path.jsonl"), "captions")
    to.print(summary_table([Checked(found, 1, [], Counter(), [1])]))
    words = " ".join(printed(to)).replace("┃", " ").split()
    assert "…" not in "".join(words)
    assert {"samples", "conver-", "sations", "median", "tokens", "longest"} <= set(words)


def test_no_conversation_of_any_epoch_is_longer_than_the_longest(
    tmp_path: Path, model: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    save_photos(tmp_path, "a.png")
    file = save_lines(tmp_path / "data", {"image": "a.png", "captions": ["a cat"]})
    longest = []
    for questions in (["Who?", "Who? " * 9, "What?"], ["Who? " * 9]):
        source = DataSource(str(file), format="captions", questions=questions)
        show(PreviewConfig([source], model=model, output=tmp_path / "run", show=0))
        longest.append(re.findall(r"│ +(\d+) │ none", capsys.readouterr().out))
    assert longest[0] == longest[1] != []


def test_what_is_skipped_is_named_up_to_a_number() -> None:
    skipped = [Skipped(f"line {number}", "too long", "9\ntokens") for number in range(3)]
    to = console()
    print_skipped(skipped, to, 2)
    assert printed(to) == [
        "line 0: too long 9 tokens",
        "line 1: too long 9 tokens",
        "and 1 more that are skipped",
    ]
    nothing = console()
    print_skipped([], nothing, 2)
    assert printed(nothing) == []


def test_show(
    config: PreviewConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    show(replace(config, show=1))
    one = capsys.readouterr().out
    show(config)
    both = capsys.readouterr().out
    assert one.count(" supervised") == 2
    assert both.count(" supervised") == 4
    assert both.count(f"<image x{tiny.PATCHES}>") == 4
    assert "a cat<|im_end|>" in both
    assert "Which?<|im_end|>" in both
    assert "1 broken image" in both
    assert "1 missing image" in both
    assert "and 1 more that are skipped" in one
    assert "questions, line 3: missing image none.png" in both


def test_the_first_of_the_first_epoch_are_shown_as_training_sees_them(
    tmp_path: Path, model: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    save_photos(tmp_path, *(f"{number}.png" for number in range(12)))
    lines = [{"image": f"{number}.png", "captions": ["a cat"]} for number in range(12)]
    order = epoch_order([12], [1.0], seed=0, epoch=0)
    (tmp_path / f"{order[0]}.png").write_bytes(b"no photo")
    lines[order[2]]["question"] = "too long " * 100
    file = save_lines(tmp_path / "data", *lines)
    questions = [f"Question {letter}?" for letter in "ABCDEFGHIJKLMNOP"]
    source = DataSource(str(file), questions=questions)
    config = PreviewConfig([source], model=model, output=tmp_path / "run", max_length=100)
    show(replace(config, show=3))
    out = capsys.readouterr().out
    assert re.findall(r", line (\d+): /", out) == [str(order[place] + 1) for place in (1, 3, 4)]
    assert re.findall(r"Question .\?", out) == [
        random.Random(f"0/0/{place}").choice(questions) for place in (1, 3, 4)
    ]


def test_names_that_cannot_be_encoded_are_printed(
    tmp_path: Path, model: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    save_photos(tmp_path, os.fsdecode(b"caf\xe9.png"))
    lines = [{"image": image, "captions": ["a cat"]} for image in ("caf\udce9.png", "\ud800.png")]
    source = DataSource(str(save_lines(tmp_path / "data", *lines)))
    show(PreviewConfig([source], model=model, output=tmp_path / "run"))
    out = capsys.readouterr().out
    assert f"data, line 1: {tmp_path}/caf\\udce9.png" in out
    assert "data, line 2: missing image \\ud800.png" in out


def test_a_thousand_of_a_source_are_checked_or_all(
    tmp_path: Path, model: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    save_photos(tmp_path, "a.png")
    file = save_lines(tmp_path / "data", *[{"image": "a.png", "captions": ["a cat"]}] * 1001)
    config = PreviewConfig([DataSource(str(file))], model=model, output=tmp_path / "run", show=0)
    show(config)
    told = f"{file}: checked are 1,000 of 1,001 samples; --all checks all\n"
    assert told in capsys.readouterr().out
    show(replace(config, all=True))
    assert "checked are" not in capsys.readouterr().out


def test_show_less_than_nothing(config: PreviewConfig, capsys: pytest.CaptureFixture[str]) -> None:
    show(replace(config, show=0))
    assert " supervised" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"^show must be at least 0, not -1$"):
        show(replace(config, show=-1))


def test_show_at_a_length(config: PreviewConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config.max_length = tiny.PATCHES
    show(config)
    out = capsys.readouterr().out
    assert " supervised" not in out
    assert "questions, line 1: too long 33 tokens do not fit into 16" in out


def test_answers_that_are_cut_are_counted(
    config: PreviewConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    show(config)
    assert "max_length" not in capsys.readouterr().out
    config.max_length = 33
    show(config)
    assert "dropped from samples: 1 answer cut or left out by max_length" in capsys.readouterr().out


def test_the_command(
    config: PreviewConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = {
        "data": [{"path": source.path} for source in config.data],
        "validation": [{"path": config.data[1].path, "limit": 1}],
        "model": {
            "vision": {"source": config.model.vision.source},
            "language": {"source": config.model.language.source},
        },
    }
    file = tmp_path / "preset.yaml"
    file.write_text(json.dumps(preset), encoding="utf-8")
    assert main(["data", str(file), "--show", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count(" supervised") == 2
    assert out.count("questions") >= 2
    (tmp_path / "captions").unlink()
    assert main(["data", str(file)]) == 1
    assert capsys.readouterr().err.startswith(f"vlm: no data at '{tmp_path / 'captions'}'")

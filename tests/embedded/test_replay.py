"""The language model's own answers, to train on."""

import json
from pathlib import Path

import pytest

import vlm
from tests import tiny, tiny_folders
from train.embedded.replay import main, read_lines, replay, whole_sentences
from vlm.config import LanguageConfig, LoraConfig
from vlm.errors import DataError

QUESTIONS = Path(__file__).parents[2] / "train" / "embedded" / "replay_questions.txt"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is Paris. It lies on the", "It is Paris."),
        ('He said "no!" And then', 'He said "no!"'),
        ("Here are three:\n1. Water\n2. Sle", ""),
        ("It costs 3.50 and", ""),
        ("All of it.", "All of it."),
    ],
)
def test_only_whole_sentences_are_kept(text: str, expected: str) -> None:
    assert whole_sentences(text) == expected


def test_answers_are_those_of_the_model() -> None:
    model = tiny.vision_language_model()
    questions = ["What is in the picture?", "Who are you?", "Run!"]
    for max_tokens in (4, 40):
        expected = []
        for question in questions:
            said = model.chat(question, max_tokens=max_tokens)
            # The tiny model never ends an answer by itself.
            if cut := whole_sentences(said):
                expected.append([question, cut])
        records = list(replay(model, questions, max_tokens))
        turns = [[turn["value"] for turn in record["conversations"]] for record in records]
        assert turns == expected


def test_the_command_leaves_out_adapters(tmp_path: Path) -> None:
    config = tiny_folders.model_config(tmp_path / "parts")
    config.language = LanguageConfig(config.language.source, lora=LoraConfig(rank=2))
    vlm.build(config, "cpu").save(tmp_path / "model")
    (tmp_path / "questions.txt").write_text("Who are you?\n\n What? \nWho are you?\n")
    main(tmp_path / "questions.txt", tmp_path / "out.jsonl", str(tmp_path / "model"))
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        first, second = json.loads(line)["conversations"]
        assert first["from"] == "human"
        assert first["value"] in ("Who are you?", "What?")
        assert second["from"] == "gpt"
        assert second["value"]


def test_the_questions_are_not_written_over(tmp_path: Path) -> None:
    questions, link = tmp_path / "questions.txt", tmp_path / "link.txt"
    questions.write_text("Who are you?\n")
    link.symlink_to(questions)
    for output in (questions, link):
        with pytest.raises(DataError, match=r"\.txt holds the questions: choose another output$"):
            main(questions, output)
    assert questions.read_text() == "Who are you?\n"


def test_questions_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.txt: No such file"):
        read_lines(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"empty\.txt is empty: it needs one question a line"):
        read_lines(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8 text"):
        read_lines(tmp_path / "latin.txt")


def test_the_questions_that_come_with_it_are_many_and_different() -> None:
    assert len(read_lines(QUESTIONS)) == len(QUESTIONS.read_text().splitlines()) >= 300

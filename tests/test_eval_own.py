"""Naming, and questions and captions of one's own."""

import json
from pathlib import Path

import pytest
from eval.metrics.any_of import any_match, normalise

from eval.benchmarks.naming import NAMING
from eval.benchmarks.own import own
from eval.run import benchmark_of
from tests import tiny
from vlm.cli import main
from vlm.errors import ConfigError, DataError


def write(folder: Path, name: str, *lines: object) -> Path:
    for number in range(3):
        tiny.photo(number).save(folder / f"{number}.png")
    file = folder / name
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (" A dog.", "dog"),
        ("the  Red\tball ", "red ball"),
        ("An", "an"),
        ("Yes. ", "yes"),
        ("a the cat", "cat"),
        ("theatre", "theatre"),
        ("3.5", "3.5"),
        ("...", ""),
    ],
)
def test_answers_are_compared_without_case_article_and_full_stop(
    answer: str, expected: str
) -> None:
    assert normalise(answer) == expected


def test_any_of_the_answers_is_right() -> None:
    assert any_match("A red ball", ["Ball.", "The red ball."])
    assert not any_match("A blue ball", ["Ball.", "The red ball."])


def test_questions_of_ones_own(tmp_path: Path) -> None:
    line = {"image": "0.png", "question": "What?", "answers": ["A cat.", "A pet."]}
    file = write(
        tmp_path,
        "mine.jsonl",
        {**line, "split": "train"},
        {**line, "split": "val", "kind": "what"},
        {**line, "split": "val"},
    )
    benchmark = benchmark_of(str(file))
    assert benchmark.name == f"{tmp_path.name}-mine"
    assert benchmark.splits == ("val", "train")
    questions = benchmark.questions(Path("nowhere"), None)
    assert [(q.id, q.text, q.image) for q in questions] == [
        ("2", "What?", tmp_path / "0.png"),
        ("3", "What?", tmp_path / "0.png"),
    ]
    scores = benchmark.score(questions, ["pet", "dog"])
    assert (scores.overall, scores.to_json()["per_kind"]) == (50, {"what": 100})
    assert benchmark.each(questions[0], "the pet") == 1


def test_an_instruction_stands_behind_questions_of_ones_own(tmp_path: Path) -> None:
    line = {"image": "0.png", "question": "What?", "answers": ["A cat."]}
    benchmark = benchmark_of(str(write(tmp_path, "mine.jsonl", line)), "In a word.")
    (question,) = benchmark.questions(Path(), None)
    assert question.text == "What?\nIn a word."
    with pytest.raises(ConfigError, match="--instruction is for files of your own: gqa has its"):
        benchmark_of("gqa", "In a word.")


def test_an_instruction_that_changed_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"image": "0.png", "question": "What?", "answers": ["A cat."]}
    file = write(tmp_path, "mine.jsonl", line, line)
    words = ["eval", str(file), "--model", "null", "--baselines", "--output", str(tmp_path / "o")]
    assert main([*words, "--instruction", "In a word."]) == 0
    capsys.readouterr()
    assert main([*words, "--instruction", "Briefly."]) == 1
    assert (
        "predictions.jsonl has answers to 2 questions that are now worded otherwise, the first is "
        r"'What?\nIn a word.', now 'What?\nBriefly.': give another --output"
    ) in capsys.readouterr().err


def test_a_split_that_a_file_does_not_have(tmp_path: Path) -> None:
    line = {"image": "0.png", "question": "What?", "answers": ["A cat."]}
    file = write(tmp_path, "mine.jsonl", line)
    with pytest.raises(DataError, match=r"/mine\.jsonl has no splits: leave --split test out$"):
        own(file).questions(Path(), "test")
    file = write(tmp_path, "split.jsonl", {**line, "split": "val"}, {**line, "split": "train"})
    with pytest.raises(DataError, match=r"/split\.jsonl has no split 'test': val, train$"):
        own(file).questions(Path(), "test")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl"):
        benchmark_of(str(tmp_path / "none.jsonl"))


def test_captions_of_ones_own(tmp_path: Path) -> None:
    lines = [{"image": f"{n}.png", "captions": [f"a {w} runs"]} for n, w in enumerate("abc")]
    benchmark = own(write(tmp_path, "captions.jsonl", *lines))
    assert benchmark.splits == ("all",)
    questions = benchmark.questions(Path(), None)
    assert len(questions) == 3
    scores = benchmark.score(questions, ["a a runs", "a b runs", "a c runs"])
    assert scores.more["bleu_1"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "0.png"}, "line 1: question, answers missing"),
        ({"image": "0.png", "question": "", "answers": ["a"]}, "line 1: 'question' must be"),
        ({"image": "0.png", "question": " ", "answers": ["a"]}, "line 1: 'question' must be"),
        ({"image": "0.png", "question": "a", "answers": []}, "line 1: 'answers' must be"),
        ({"image": "0.png", "question": "a", "answers": "a"}, "line 1: 'answers' must be"),
        ({"image": "0.png", "question": "a", "answers": [1]}, "line 1: every answer must be"),
        (
            {"image": "0.png", "question": "a", "answers": ["a"], "kind": ""},
            "line 1: 'kind' must be a non-empty string or left out",
        ),
        ({"image": "../0.png", "question": "a", "answers": ["a"]}, "must be a path inside"),
        ({"image": "9.png", "question": "a", "answers": ["a"]}, r"1 of 1 images missing: 9\.png"),
        ("{", "line 1: a JSON object is needed, not str"),
    ],
)
def test_lines_that_are_broken(tmp_path: Path, line: object, message: str) -> None:
    file = write(tmp_path, "mine.jsonl", line)
    with pytest.raises(DataError, match=message):
        own(file).questions(Path(), None)


def test_a_thing_may_be_named_by_any_of_its_words(tmp_path: Path) -> None:
    folder = tmp_path / "coco_small"
    folder.mkdir()
    captions = {"0.png": ["a cat"], "1.png": ["a train"], "2.png": ["people at a party"]}
    lines = [{"image": n, "captions": c, "split": "test"} for n, c in captions.items()]
    write(folder, "captions.jsonl", *lines)
    questions = NAMING.questions(tmp_path, "test")
    assert len(questions) == 4
    answers = ["A kitten.", "Two cats on a sofa", "A train station.", "A dog"]
    scores = NAMING.score(questions, answers)
    assert scores.overall == 50
    assert scores.to_json()["per_question"] == {"Describe the image.": 50, "What is this?": 50}
    assert scores.more["either"] == 50


def test_no_photo_with_a_main_thing(tmp_path: Path) -> None:
    folder = tmp_path / "coco_small"
    folder.mkdir()
    write(folder, "captions.jsonl", {"image": "0.png", "captions": ["people"], "split": "test"})
    with pytest.raises(DataError, match="none of 1 photos has a main thing"):
        NAMING.questions(tmp_path, "test")

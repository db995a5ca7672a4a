"""Short answers to questions: what counts as right, whatever is asked together."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vlm
from eval.questions import (
    Question,
    Score,
    answer_questions,
    evaluate_questions,
    main,
    normalise,
    read_questions,
    score,
)
from tests import tiny, tiny_folders
from vlm.errors import DataError


class Colours:
    """Answers with the red value of the photo's first pixel and the end of the question."""

    def batch(
        self, questions: Sequence[tuple[Any, str]], batch_size: int = 16, **generation: Any
    ) -> list[str]:
        return [f"{image.getpixel((0, 0))[0]} {text[-5:]}" for image, text in questions]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    return write(
        tmp_path,
        line(0, "Is it red?", ["Yes."], kind="yes/no"),
        line(1, "Is it?", ["No."], kind="yes/no"),
        line(0, "Which colour is it?", ["Red.", "Dark red."], kind="colour", id="x"),
        line(2, "Is it red?", ["No."], kind="yes/no", split="train"),
    )


def line(image: int, question: str, answers: object, **more: str) -> dict[str, object]:
    record = {"image": f"{image}.png", "question": question, "answers": answers}
    return {**record, "split": "test", **more}


def write(folder: Path, *lines: object) -> Path:
    file = folder / "questions.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts), encoding="utf-8")
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


def test_a_prediction_is_right_if_it_is_any_of_the_answers() -> None:
    asked = [
        Question(Path("a"), "?", ["A cat.", "kitten"]),
        Question(Path("b"), "?", ["dog"]),
        Question(Path("c"), "?", ["The dog", "dog."]),
    ]
    assert score(asked, ["Kitten", "a cat", "Dog."]) == Score(2 / 3, 2 / 3, 3)
    assert score(asked[:1], ["a cat and a dog"]).accuracy == 0


def test_reads_one_split_or_kind(file: Path) -> None:
    questions = read_questions(file, "test")
    assert [question.text for question in questions] == [
        "Is it red?",
        "Is it?",
        "Which colour is it?",
    ]
    assert questions[2] == Question(
        file.parent / "images" / "0.png",
        "Which colour is it?",
        ["Red.", "Dark red."],
        "test",
        "colour",
    )
    assert len(read_questions(file)) == 4
    assert len(read_questions(file, "test", "yes/no")) == 2
    assert len(read_questions(file, "test", limit=1)) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 3, 50])
def test_every_question_gets_its_own_photo_and_the_instruction(file: Path, batch_size: int) -> None:
    questions = read_questions(file)
    answers = answer_questions(Colours(), questions, None, batch_size)
    assert answers == ["0  red?", "1 s it?", "0 s it?", "2  red?"]
    answers = answer_questions(Colours(), questions, "Short", batch_size)
    assert answers == ["0 Short", "1 Short", "0 Short", "2 Short"]


def test_the_batch_size_makes_no_difference(file: Path) -> None:
    model = tiny.vision_language_model()
    questions = read_questions(file)
    alone = answer_questions(model, questions, "Answer.", 1)
    assert len(set(alone)) > 1
    for batch_size in (2, 3, 4):
        assert answer_questions(model, questions, "Answer.", batch_size) == alone


def test_scores_by_kind_and_answers_as_json_lines(file: Path, tmp_path: Path) -> None:
    (tmp_path / "dark").mkdir()
    questions = read_questions(
        write(
            file.parent,
            line(0, "Is it red?", ["0 red?"], kind="yes/no"),
            line(1, "Is it red?", ["0 red?"], kind="yes/no"),
            line(1, "Is it?", ["0  it?"]),
        )
    )
    output = tmp_path / "answers.jsonl"
    report = evaluate_questions(Colours(), questions, None, 2, output)
    assert report.overall == Score(1 / 3, 2 / 3, 3)
    assert report.kinds == {"yes/no": Score(0.5, 1.0, 2)}
    assert (report.photos, report.instruction) == (2, None)
    records = [json.loads(text) for text in output.read_text().splitlines()]
    assert [record["right"] for record in records] == [True, False, False]
    assert records[0] == {
        "image": "0.png",
        "question": "Is it red?",
        "prediction": "0  red?",
        "answers": ["0 red?"],
        "right": True,
    }


def test_the_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vlm.build(tiny_folders.model_config(tmp_path / "parts"), "cpu").save(tmp_path / "model")
    main(file, str(tmp_path / "model"), json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["overall"]["questions"] == 3
    assert report["kinds"].keys() == {"yes/no", "colour"}
    main(file, str(tmp_path / "model"), split=None, kind="yes/no")
    shown = capsys.readouterr().out
    assert "3 questions about 3 photos" in shown
    assert "66.7%" in shown


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "line 2: not JSON"),
        ({"image": "0.png"}, "line 2: question, answers missing; found image, expected image"),
        (line(0, " ", ["a"]), "line 2: 'question' must be a non-empty string"),
        (line(0, "?", "a"), "line 2: 'answers' must be a non-empty list of strings"),
        (line(0, "?", []), "line 2: 'answers' must be a non-empty list of strings"),
        (line(0, "?", [1]), "line 2: every answer must be a non-empty string"),
        (line(0, "?", ["a"], kind=""), "line 2: 'kind' must be a non-empty string or left out"),
        ({**line(0, "?", ["a"]), "image": "../0.png"}, "line 2: image '../0.png' must be a path"),
        (line(9, "?", ["a"]), r"1 of 2 images missing: 9\.png"),
    ],
)
def test_a_bad_line_is_named(file: Path, bad: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_questions(write(file.parent, line(0, "?", ["a"]), bad))


def test_what_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(DataError, match="no question of split 'val'; there are: test, train"):
        read_questions(file, "val")
    with pytest.raises(DataError, match="no question of kind 'who'; there are: colour, yes/no"):
        read_questions(file, "test", "who")
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl"):
        read_questions(file.parent / "none.jsonl")
    with pytest.raises(DataError, match="limit must be at least 1, not 0"):
        read_questions(file, limit=0)
    with pytest.raises(DataError, match="batch_size must be at least 1, not 0"):
        answer_questions(Colours(), read_questions(file), None, 0)
    bare = {"image": "0.png", "question": "?", "answers": ["a"]}
    with pytest.raises(DataError, match="no question of split 'test'; there are: no splits"):
        read_questions(write(file.parent, bare), "test")

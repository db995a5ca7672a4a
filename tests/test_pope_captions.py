"""POPE from captions: what is asked of whom, and how the three kinds choose what is not there."""

import json
from pathlib import Path

import pytest

from eval.benchmarks.pope_captions import load
from eval.question import Question


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    """Twenty photos of a dog and a ball, ten of a cat on a couch, five of a horse, one of a dog."""
    talks = {"a dog with a ball": 20, "a cat on a couch": 10, "a horse": 5, "a dog": 1}
    lines = []
    for text, count in talks.items():
        for number in range(count):
            image = f"{text[2:5]}{len(lines)}{number}.jpg"
            (tmp_path / image).touch()
            lines.append({"image": image, "captions": [text] * 4 + ["an apple"], "split": "test"})
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return load(tmp_path, "test")


def asked(questions: list[Question], kind: str, answer: str) -> list[str]:
    """What the last photo, of a dog alone, is asked."""
    last = questions[-1].id.split("/")[1]
    return [
        question.id.split("/")[2]
        for question in questions
        if question.id.startswith(f"{kind}/{last}/") and question.answers == (answer,)
    ]


def test_as_many_questions_have_a_no_as_a_yes(questions: list[Question]) -> None:
    for kind in ("random", "popular", "adversarial"):
        answers = [q.answers[0] for q in questions if q.labels["split"] == kind]
        assert answers.count("yes") == answers.count("no") == 2 * 20 + 2 * 10 + 5 + 1


def test_popular_is_what_most_photos_have_and_adversarial_what_is_beside_it(
    questions: list[Question],
) -> None:
    assert asked(questions, "popular", "yes") == asked(questions, "random", "yes") == ["dog"]
    assert asked(questions, "adversarial", "no") == ["sports ball"]
    assert asked(questions, "popular", "no") == ["sports ball"]
    horse = next(q for q in questions if q.id.startswith("popular/hor") and q.answers == ("no",))
    assert horse.id.endswith("/dog")


def test_what_one_caption_names_is_not_asked_about(questions: list[Question]) -> None:
    assert not any("apple" in question.text for question in questions)


def test_the_same_photos_are_asked_the_same(questions: list[Question], tmp_path: Path) -> None:
    assert load(tmp_path, "test") == questions

"""Benchmarks from the hub: data sets of the same columns, on the disk instead."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from eval.answerers import ModelAnswerer
from eval.benchmarks import BENCHMARKS
from eval.question import Question
from tests import tiny
from tests.test_eval_benchmarks import PROMPTS
from vlm.errors import DataError, ImageError

ANSWERS = [{"answer": "net", "answer_id": n} for n in range(1, 11)]
NET = {"question": "What is this?", "answers": ANSWERS}

ROWS: dict[str, list[dict[str, Any]]] = {
    "vqav2": [
        {**NET, "question_id": n, "image_id": 7, "question_type": "what", "answer_type": "other"}
        for n in (1, 2)
    ],
    "okvqa": [{"question_id": "1", "question": "What is this?", "answers": ["net"] * 10}],
    "textvqa": [
        {
            "question_id": 5,
            "image_id": "i",
            "question": "what brand?",
            "answers": ["nokia"] * 10,
            "ocr_tokens": ["NOKIA", "3310"],
        }
    ],
    "vizwiz": [
        {
            "question_id": "a.jpg",
            "question": "What is it?",
            "answers": ["no"] * 10,
            "category": "other",
        }
    ],
    "pope": [
        {
            "question_id": "1",
            "question": "Is there a cat?",
            "answer": "yes",
            "category": kind,
            "image_source": "a",
        }
        for kind in ("random", "popular", "adversarial")
    ],
    "scienceqa": [
        {
            "question": "Which is magnetic?",
            "choices": ["iron", "wood"],
            "answer": 0,
            "hint": "Some metals are.",
            "subject": "natural science",
            "grade": "grade4",
        }
    ],
    "ai2d": [{"question": "What is eaten?", "options": ["a", "b", "c", "d"], "answer": "3"}],
    "aokvqa": [
        {
            "question_id": "x",
            "question": "What?",
            "choices": ["one", "two"],
            "correct_choice_idx": 1,
        }
    ],
    "aokvqa-direct": [
        {
            "question_id": str(number),
            "question": "What?",
            "direct_answers": "['a net', 'a net', 'a net', 'net', 'net', 'net', 'it', 'it']",
            "difficult_direct_answer": False,
        }
        for number in (1, 2)
    ],
    "docvqa": [{"questionId": "1", "question": "Date?", "docId": 3, "answers": ["1/8/93"]}],
    "chartqa": [{"question": "How many?", "answer": "12", "type": "human_test"}],
    "seed": [
        {
            "question_id": "101",
            "question": "What?",
            **{f"choice_{letter}": f"{letter} thing" for letter in "abcd"},
            "answer": "C",
            "data_type": kind,
            "question_type_id": 1,
        }
        for kind in ("image", "video")
    ],
    "mmbench": [
        {
            "index": index,
            "question": "What?",
            "hint": "Look.",
            **{"A": first, "B": second, "C": "nan", "D": "nan"},
            "answer": answer,
            "category": "animals",
        }
        for index, first, second, answer in ((3, "cat", "dog", "B"), (1_000_003, "dog", "cat", "A"))
    ],
    "mme": [
        {
            "question_id": "existence/1.png",
            "question": "Is there a cat? Please answer yes or no.",
            "answer": "Yes",
            "category": "existence",
        }
    ],
}
ROWS["textvqa-ocr"] = ROWS["textvqa"]


def on_disk(folder: Path, split: str, rows: list[dict[str, Any]], photos: bool = True) -> None:
    """Parquet files in the folder of a data set, with a photo in each row."""
    columns = {name: [row[name] for row in rows] for row in rows[:1] for name in row}
    if photos:
        columns["image"] = [tiny.photo(place) for place in range(len(rows))]
        if "data_type" in rows[0]:
            columns["image"] = [[photo] for photo in columns["image"]]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_dict(columns)
    if photos and "data_type" not in rows[0]:
        data = data.cast_column("image", datasets.Image())
    data.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def questions_of(name: str, folder: Path) -> list[Question]:
    """From a folder in place of the hub's data set."""
    benchmark = BENCHMARKS[name]
    hub = replace(benchmark.hub, id=str(folder), config=None)
    return replace(benchmark, hub=hub).questions(folder, None, from_hub=True)


@pytest.mark.parametrize("name", ROWS)
def test_rows_become_the_same_questions_as_files(name: str, tmp_path: Path) -> None:
    benchmark = BENCHMARKS[name]
    on_disk(tmp_path, benchmark.hub.splits[benchmark.splits[0]], ROWS[name])
    questions = questions_of(name, tmp_path)
    assert {question.text for question in questions} <= set(PROMPTS[name])
    videos = sum(row.get("data_type") == "video" for row in ROWS[name])
    assert len({question.id for question in questions}) == len(ROWS[name]) - videos
    answers = [question.answers[0] for question in questions]
    assert benchmark.score(questions, answers).overall == pytest.approx(100)
    assert questions[0].photo().tobytes() == tiny.photo(0).tobytes()


def test_rows_about_one_photo_share_it(tmp_path: Path) -> None:
    on_disk(tmp_path, "validation", ROWS["vqav2"])
    first, second = questions_of("vqav2", tmp_path)
    assert first.image == second.image
    model = tiny.vision_language_model()
    answer, again = ModelAnswerer(model).answer([first, second], 5)
    assert answer == again


def test_photos_may_be_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": "01", "imageId": "n1", "question": "Which color?", "answer": "red"}
    row |= {"types": {"structural": "query", "semantic": "attr"}, "entailed": "['02', '03']"}
    on_disk(tmp_path / "testdev_balanced_instructions", "testdev", [row], photos=False)
    on_disk(tmp_path / "testdev_balanced_images", "testdev", [{"id": "n0"}, {"id": "n1"}])
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda _, config: load(str(tmp_path / config)))
    (question,) = BENCHMARKS["gqa"].questions(tmp_path, None, from_hub=True)
    assert question.text == PROMPTS["gqa"][0]
    assert question.scored_as == ("02", "03")
    assert question.photo().tobytes() == tiny.photo(1).tobytes()


def test_rows_that_are_not_as_they_should_be(tmp_path: Path) -> None:
    on_disk(tmp_path, "val", [{"question": "What is it?"}])
    with pytest.raises(DataError, match=r"row 0: not as it should be: KeyError 'question_id'"):
        questions_of("vizwiz", tmp_path)


def test_answers_that_are_no_list(tmp_path: Path) -> None:
    row = {"question_id": "1", "question": "What?", "difficult_direct_answer": False}
    on_disk(tmp_path, "validation", [{**row, "direct_answers": "['net',"}])
    with pytest.raises(DataError, match=r"should be: a list 'direct_answers' of texts"):
        questions_of("aokvqa-direct", tmp_path)


def test_rows_without_a_photo_that_can_be_read(tmp_path: Path) -> None:
    row = {"question_id": "1", "question": "What?", "answers": ["net"] * 10, "category": "other"}
    on_disk(tmp_path / "none", "val", [row], photos=False)
    with pytest.raises(DataError, match="columns: image missing; found question_id, question"):
        questions_of("vizwiz", tmp_path / "none")
    broken = [{"bytes": b"GIF89a", "path": None}]
    told = {
        "broken": (broken, r"^cannot read '.*, row 0, image 1': not an image"),
        "empty": ([], "^the question has no image"),
        "path": (["a.png"], "^the question has no image"),
    }
    for name, (image, message) in told.items():
        on_disk(tmp_path / name, "val", [row | {"image": image}], photos=False)
        (question,) = questions_of("vizwiz", tmp_path / name)
        with pytest.raises(ImageError, match=message):
            question.photo()


def test_what_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the data set .*absent.*: no such file"):
        questions_of("vizwiz", tmp_path / "absent")
    with pytest.raises(DataError, match="coco-captions is not on the hub: put Karpathy's"):
        BENCHMARKS["coco-captions"].questions(tmp_path, None, from_hub=True)
    with pytest.raises(DataError, match=r"lmms-lab-encoder/VQAv2 has no split 'train': val"):
        BENCHMARKS["vqav2"].questions(tmp_path, "train", from_hub=True)
    with pytest.raises(DataError, match="or take it from the hub with --hub"):
        BENCHMARKS["vqav2"].questions(tmp_path, None)

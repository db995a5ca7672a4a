"""Captions and questions, as JSON and JSON-lines."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data_folders import asked, captions, read, reasons, save_lines, save_photos
from vlm.data.photos import FilePhoto
from vlm.data.sample import Message, Sample, tidy
from vlm.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_photos(tmp_path, "images/a.png", "images/b.png")
    return tmp_path


def test_captions(folder: Path) -> None:
    file = save_lines(
        folder / "data",
        {"image": "a.png", "captions": ["a cat .", "two  cats", "A cat."]},
        {"image": "b.png", "captions": ["a dog"], "question": "Who runs?"},
    )
    first, second = read(file, questions=["What?", "Who?"]).usable
    assert first == Sample(
        where=f"{file}, line 1",
        photos=(FilePhoto(folder / "images/a.png"),),
        conversations=captions("A cat.", "Two cats."),
        questions=("What?", "Who?"),
    )
    assert (second.conversations, second.questions) == (captions("A dog."), ("Who runs?",))


def test_one_question_is_drawn_for_all_captions_of_a_photo(folder: Path) -> None:
    file = save_lines(folder / "data", {"image": "a.png", "captions": ["a cat", "a dog"]})
    (sample,) = read(file, questions=["What?", "Who?"]).usable
    drawn = set()
    for seed in range(20):
        first, second = sample.messages(random.Random(seed))
        assert first[0] == second[0]
        assert [turn[1]["content"] for turn in (first, second)] == [
            [{"type": "text", "text": "A cat."}],
            [{"type": "text", "text": "A dog."}],
        ]
        image, question = first[0]["content"]
        assert image == {"type": "image", "image": sample.photos[0]}
        drawn.add(question["text"])
    assert drawn == {"What?", "Who?"}


def test_a_drawn_question_is_behind_a_system_message() -> None:
    said = Message("system", ("Be brief.",)), Message("user", (0,)), Message("assistant", ("A.",))
    sample = Sample("line 1", (FilePhoto(Path("a.png")),), (said,), ("What?",))
    (messages,) = sample.messages(random.Random(0))
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert messages[0]["content"] == [{"type": "text", "text": "Be brief."}]
    assert messages[1]["content"][1] == {"type": "text", "text": "What?"}


@pytest.mark.parametrize(
    ("fields", "reason", "detail"),
    [
        ({"captions": []}, "no captions", ""),
        ({"captions": ["a cat", ""]}, "empty caption", ""),
        ({"captions": ["a cat", 3]}, "caption is not text", "3"),
        ({"captions": None}, "no captions", ""),
        ({"question": ""}, "empty question", ""),
        ({"question": 1}, "question is not text", "1"),
    ],
)
def test_captions_that_are_skipped(
    folder: Path, fields: dict[str, object], reason: str, detail: str
) -> None:
    cat = {"image": "a.png", "captions": ["a cat"]}
    file = save_lines(folder / "data", cat, cat | fields)
    assert reasons(read(file), folder) == [("data, line 2", reason, detail)]


@pytest.mark.parametrize(
    ("caption", "written"),
    [
        ("a dog runs", "A dog runs."),
        ("a  dog\nruns .", "A dog runs."),
        ("a dog runs. .", "A dog runs."),
        ("route 66", "Route 66."),
        ("who runs ?", "Who runs ?"),
        ("it runs!", "It runs!"),
        ("一只狗。", "一只狗。"),
        ('he said "hi."', 'He said "hi."'),
        ("a dog (brown) .", "A dog (brown)."),
        ("...", "..."),
    ],
)
def test_captions_are_tidied(caption: str, written: str) -> None:
    assert tidy(caption) == written


@given(caption=st.text())
def test_what_is_tidy_stays_as_it_is(caption: str) -> None:
    assert tidy(tidy(caption)) == tidy(caption)


def test_questions_on_a_photo_are_together(folder: Path) -> None:
    file = save_lines(
        folder / "data",
        {"image": "images/a.png", "question": "What is it?", "answers": ["cat"]},
        {"image": "images/b.png", "question": "Who?", "answer": "a dog"},
        {"image": "images/a.png", "question": "How many? ", "answers": ["2", "one", "one", "2"]},
        {"image": "images/a.png", "question": "What else?", "answers": ["lamp, bed"], "split": "x"},
    )
    assert read(file).usable == [
        Sample(
            f"{file}, line 1",
            (FilePhoto(folder / "images/a.png"),),
            (asked("What is it?", "cat"), asked("How many?", "2")),
        ),
        Sample(
            f"{file}, line 2",
            (FilePhoto(folder / "images/b.png"),),
            (asked("Who?", "a dog"),),
        ),
        Sample(
            f"{file}, line 4",
            (FilePhoto(folder / "images/a.png"),),
            (asked("What else?", "lamp, bed"),),
        ),
    ]


def test_all_of_several_answers_can_be_the_right_one(folder: Path) -> None:
    line = {"image": "images/a.png", "question": "What is there?"}
    file = save_lines(
        folder / "data", line | {"answers": ["lamp", "bed"]}, line | {"answer": "a cat"}
    )
    (sample,) = read(file, answers="all").usable
    assert sample.conversations == (
        asked("What is there?", "lamp, bed"),
        asked("What is there?", "a cat"),
    )


def test_an_instruction_is_behind_every_question(folder: Path) -> None:
    line = {"image": "a.png", "question": "Who?", "answer": "cat"}
    file = save_lines(folder / "data", line, line | {"question": "What?"})
    (sample,) = read(file, instruction="Use one word.").usable
    assert sample.conversations == (
        asked("Who?\nUse one word.", "cat"),
        asked("What?\nUse one word.", "cat"),
    )


@pytest.mark.parametrize(
    ("fields", "reason", "detail"),
    [
        ({"answers": []}, "no answers", "data, line 3"),
        ({"answers": ["cat", " "]}, "empty answer", "data, line 3"),
        ({"answer": ""}, "empty answer", "data, line 3"),
        ({"answer": 2}, "answer is not text", "data, line 3 2"),
        ({"question": None}, "question is not text", "data, line 3 None"),
    ],
)
def test_questions_that_are_skipped(
    folder: Path, fields: dict[str, object], reason: str, detail: str
) -> None:
    good = {"image": "b.png", "question": "Who?", "answer": "dog"}
    other = good | {"image": "a.png"}
    file = save_lines(folder / "data", good, other, other | fields)
    found = read(file)
    assert len(found.usable) == 1
    assert reasons(found, folder) == [("data, line 2", reason, detail)]


@pytest.mark.parametrize("image", [None, ["a.png"], {"a": 1}, "c.png"])
def test_a_question_whose_image_cannot_be_used(folder: Path, image: object) -> None:
    good = {"image": "b.png", "question": "Who?", "answer": "dog"}
    found = read(save_lines(folder / "data", good, good | {"image": image}))
    assert len(found.usable) == len(found.skipped) == 1


def test_a_question_line_without_its_keys(folder: Path) -> None:
    good = {"image": "b.png", "question": "Who?", "answer": "dog"}
    for key, expected in (
        ("question", "question missing; found image, answer, expected image, question$"),
        ("answer", "answers missing; found image, question, expected image, question, answers$"),
    ):
        bad = {name: value for name, value in good.items() if name != key}
        with pytest.raises(DataError, match=f"data, line 2: {expected}"):
            read(save_lines(folder / "data", good, bad))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
turn_values = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt"]), "value": st.just("<image>") | json_values}
)


@given(
    record=st.fixed_dictionaries(
        {"image": st.sampled_from(["a.png", ["a.png"]]) | json_values},
        optional={
            "conversations": st.lists(turn_values, max_size=4) | json_values,
            "captions": st.lists(st.text(max_size=3), max_size=2) | json_values,
            "question": json_values,
            "answers": json_values,
            "answer": json_values,
            "split": json_values,
        },
    )
)
def test_any_record_is_used_or_skipped_or_refused(
    tmp_path_factory: pytest.TempPathFactory, record: dict[str, object]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "a.png").touch()
    try:
        found = read(save_lines(folder / "any", record))
    except DataError:
        return
    (sample,) = found.usable
    for conversation in sample.messages(random.Random(0)):
        assert [message["role"] for message in conversation[:2]] == ["user", "assistant"]
        assert json.dumps([part["type"] for message in conversation for part in message["content"]])


@given(content=st.binary(max_size=40))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes"
    file.write_bytes(content)
    for format in ("captions", None):
        with pytest.raises(DataError):
            read(file, format=format)

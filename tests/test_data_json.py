"""Captions and questions, as JSON and JSON-lines."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.benchmarks import choice, scienceqa
from tests.data_folders import asked, captions, read, reasons, save_lines, save_photos
from vlm.data.photos import FilePhoto
from vlm.data.sample import Message, Sample
from vlm.data.source import Columns
from vlm.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_photos(tmp_path, "images/a.png", "images/b.png")
    return tmp_path


def test_captions(folder: Path) -> None:
    file = save_lines(
        folder / "data",
        {"image": "a.png", "captions": ["a cat .", "two\n cats ", "a cat ."]},
        {"image": "b.png", "captions": ["a dog"], "question": "Who runs?"},
    )
    first, second = read(file, questions=["What?", "Who?"]).usable
    assert first == Sample(
        where=f"{file}, line 1",
        photos=(FilePhoto(folder / "images/a.png"),),
        conversations=captions("a cat .", "two\n cats"),
        questions=("What?", "Who?"),
    )
    assert (second.conversations, second.questions) == (captions("a dog"), ("Who runs?",))


def test_one_question_is_drawn_for_all_captions_of_a_photo(folder: Path) -> None:
    file = save_lines(folder / "data", {"image": "a.png", "captions": ["a cat", "a dog"]})
    (sample,) = read(file, questions=["What?", "Who?"]).usable
    drawn = set()
    for seed in range(20):
        first, second = sample.messages(random.Random(seed))
        assert first[0] == second[0]
        assert [turn[1]["content"] for turn in (first, second)] == [
            [{"type": "text", "text": "a cat"}],
            [{"type": "text", "text": "a dog"}],
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
        ({"image": []}, "image is not a path", "[]"),
        ({"captions": ["", " "]}, "blank caption", ""),
        ({"captions": [3]}, "caption is not text", "3"),
        ({"captions": None}, "no captions", ""),
        ({"question": " "}, "blank question", ""),
        ({"question": 1}, "question is not text", "1"),
    ],
)
def test_captions_that_are_skipped(
    folder: Path, fields: dict[str, object], reason: str, detail: str
) -> None:
    cat = {"image": "a.png", "captions": ["a cat"]}
    file = save_lines(folder / "data", cat, cat | fields)
    assert reasons(read(file), folder) == [("data, line 2", reason, detail)]


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
        ({"answers": []}, "no answers", ""),
        ({"answers": [None, " "]}, "answer is not text", "None"),
        ({"answer": ""}, "blank answer", ""),
        ({"answer": float("nan")}, "answer is not text", "nan"),
        ({"answer": {"text": "cat"}}, "answer is not text", "None"),
        ({"question": None}, "question is not text", "None"),
        ({"question": " "}, "blank question", ""),
        ({"question": "<image> or <image>?"}, "<image> and images differ", "2 <image>, 1 images"),
        ({"hint": 3}, "hint is not text", "3"),
        ({"choices": "a, b"}, "choices are not a list of texts", "'a, b'"),
        ({"choices": ["cat"]}, "choices are not a list of texts", "{'A': 'cat'}"),
        ({"choices": ["cat", "bus"]}, "answer is none of the choices", "dog"),
        ({"history": "Hi"}, "history is not pairs of question and answer", "'Hi'"),
        ({"history": [["Hi"]]}, "history is not pairs of question and answer", "['Hi']"),
        ({"video": "a.mp4"}, "unread media 'video'", "a.mp4"),
    ],
)
def test_a_question_that_cannot_be_used_drops_only_itself(
    folder: Path, fields: dict[str, object], reason: str, detail: str
) -> None:
    good = {"image": "b.png", "question": "Who?", "answer": "dog"}
    bad = good | fields
    file = save_lines(folder / "data", good | {"image": "a.png"}, bad)
    assert reasons(read(file), folder) == [("data, line 2", reason, detail)]
    found = read(save_lines(file, bad, good, bad | {"split": None}, good | {"question": "What?"}))
    assert [sample.conversations for sample in found.usable] == [
        (asked("Who?", "dog"), asked("What?", "dog"))
    ]
    assert (found.dropped, found.skipped) == ({reason: 2}, [])


@pytest.mark.parametrize("image", [None, [], ["b.png", 3], {"a": 1}, "c.png"])
def test_a_question_whose_image_cannot_be_used(folder: Path, image: object) -> None:
    good = {"image": "b.png", "question": "Who?", "answer": "dog"}
    found = read(save_lines(folder / "data", good, good | {"image": image}))
    assert len(found.usable) == len(found.skipped) == 1


def test_a_question_line_without_its_keys(folder: Path) -> None:
    good = {"image": "b.png", "question": "Who?", "answer": "dog"}
    for key, expected in (
        ("question", "found image, answer; `columns:` says which is which$"),
        ("answer", "found image, question; `columns:` says which is which$"),
    ):
        bad = {name: value for name, value in good.items() if name != key}
        with pytest.raises(DataError, match=rf"data, line 2: question with .* missing; {expected}"):
            read(save_lines(folder / "data", good, bad))


@pytest.mark.parametrize(
    "line",
    [
        {"image": "a.png", "caption": "e^{x}+y"},
        {"image": "a.png", "caption": ["e^{x}+y", "e^{x}+y"]},
        {"image": "a.png", "captions": ["e^{x}+y", "", " "], "id": 3, "source": "web"},
        {"image": ["a.png"], "text": "e^{x}+y"},
        {"file_name": "a.png", "text": "e^{x}+y"},
        {"img": "a.png", "latex": "e^{x}+y", "caption": "no"},
    ],
)
def test_one_caption_of_any_name_as_it_stands(folder: Path, line: dict[str, object]) -> None:
    columns = Columns(image="img", text="latex") if "img" in line else Columns()
    found = read(save_lines(folder / "data", line), columns=columns, questions=["What?"])
    (sample,) = found.usable
    assert found.format == "captions"
    assert (sample.photos, sample.questions) == ((FilePhoto(folder / "images/a.png"),), ("What?",))
    assert sample.conversations == captions("e^{x}+y")
    assert found.dropped == ({"blank caption": 2} if "captions" in line else {})


@pytest.mark.parametrize("text", ["iPhone 15", "一只猫", "| a |\n|---|\n| 1 |", "x = 3 ."])
def test_what_is_written_is_what_is_trained(folder: Path, text: str) -> None:
    line = {"image": "a.png", "captions": [f" {text}\n"]}
    assert read(save_lines(folder / "data", line)).usable[0].conversations == captions(text)


def test_the_question_of_a_caption_comes_behind_the_photo(folder: Path) -> None:
    line = {"image": "a.png", "caption": "a dog"}
    questions = ["<image>\nWho runs?", "Who runs?\n<image>", "Who <image> runs?"]
    found = read(save_lines(folder / "data", *(line | {"question": asks} for asks in questions)))
    assert [sample.questions for sample in found.usable] == [("Who runs?",)] * 2
    assert [one.reason for one in found.skipped] == ["<image> within the question of a caption"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (3, "3"),
        (2.5, "2.5"),
        (True, "yes"),
        (False, "no"),
        ([3, 3, "three"], "3"),
        ([{"answer": "cat", "answer_confidence": "yes"}, {"answer": "cat"}], "cat"),
    ],
)
def test_answers_that_are_no_text(folder: Path, answer: object, text: str) -> None:
    key = "answers" if isinstance(answer, list) else "answer"
    line = {"image": "a.png", "question": "How many?", key: answer}
    (sample,) = read(save_lines(folder / "data", line)).usable
    assert sample.conversations == (asked("How many?", text),)


OPTIONS = {"question": "What is it?", "choices": ["dog", "cat", "bus"], "hint": "It meows."}


@pytest.mark.parametrize("answer", ["B", "(b)", "B.", "cat", "Cat", 1, "1", ["B"]])
@pytest.mark.parametrize(
    "options", [["dog", "cat", "bus"], {"A": "dog", "B": "cat", "C": "bus"}, None]
)
def test_options_are_asked_as_evaluation_asks_them(
    folder: Path, options: object, answer: object
) -> None:
    line = OPTIONS | {"image": "a.png", "answer": answer}
    if options is not None:
        line = line | {"options": options, "choices": []}
    (sample,) = read(save_lines(folder / "data", line), instruction="Use one word.").usable
    problem = {"id": 1, "answer": 1, "subject": "zoo", "grade": "grade2", **OPTIONS}
    expected = scienceqa.question(problem, None)
    assert sample.conversations == (asked(expected.text, "B"),)
    assert sample.answers == (("B",),)
    without = read(save_lines(folder / "data", line | {"hint": None})).usable
    chosen = choice.choice(1, None, "What is it?", ["dog", "cat", "bus"], "B")
    assert without[0].conversations == (asked(chosen.text, "B"),)


def test_true_and_false_among_the_options(folder: Path) -> None:
    line = {"image": "a.png", "question": "Is it?", "choices": ["yes", "no"]}
    lines = [line | {"answer": answer} for answer in (True, False)]
    lines += [line | {"choices": ["True", "False"], "answer": False}]
    (sample,) = read(save_lines(folder / "data", *lines)).usable
    assert sample.answers == (("A",), ("B",), ("B",))


def test_an_answer_that_is_no_option_drops_only_itself(folder: Path) -> None:
    line = {"image": "a.png", "question": "What?", "choices": ["cat", "dog"]}
    found = read(save_lines(folder / "data", line | {"answers": ["dog", "bird", "dog"]}))
    assert found.usable[0].answers == (("B", "B"),)
    assert found.dropped == {"answer is none of the choices": 1}


def test_a_hint_without_options(folder: Path) -> None:
    line = {"image": "a.png", "question": "Who?", "answer": "cat", "hint": "It meows."}
    (sample,) = read(save_lines(folder / "data", line), instruction="Use one word.").usable
    assert sample.conversations == (asked("Context: It meows.\nWho?\nUse one word.", "cat"),)


def test_what_is_said_before_a_question(folder: Path) -> None:
    line = {"image": "a.png", "question": "Which colour?", "answer": "red"}
    before = {"system": "Be brief.", "history": [["What is it?", "A ball."]], "tools": [{"a": 1}]}
    file = save_lines(folder / "data", line | before, line, line | {"id": 7, "note": "two words"})
    found = read(file, instruction="In a word.")
    (sample,) = found.usable
    first, *others = sample.conversations
    assert first == (
        Message("system", ("Be brief.",)),
        Message("user", (0, "What is it?")),
        Message("assistant", ("A ball.",)),
        Message("user", ("Which colour?\nIn a word.",)),
        Message("assistant", ("red",)),
    )
    assert others == [asked("Which colour?\nIn a word.", "red")] * 2
    assert found.dropped == {"unread key 'tools'": 1, "unread key 'note'": 1}


def test_photos_of_a_question_go_where_it_says(folder: Path) -> None:
    line = {"image": "a.png", "question": "<image>\nWho?", "answer": "cat"}
    two = {"images": ["a.png", "b.png"], "answer": "cat"}
    file = save_lines(
        folder / "data",
        line,
        line | {"question": "Is <image> red?"},
        line | {"question": "What?"},
        two | {"question": "Which?"},
        two | {"question": "<image> or <image>?"},
        line | {"question": "<image> <img>b.png</img>?"},
    )
    samples = read(file)
    assert samples.dropped == {"another photo in the question": 1}
    found = [(len(s.photos), [c[0].parts for c in s.conversations]) for s in samples.usable]
    assert found == [
        (1, [(0, "Who?"), ("Is ", 0, " red?"), (0, "What?")]),
        (2, [(0, 1, "Which?"), (0, " or ", 1, "?")]),
    ]


def test_questions_under_other_names(folder: Path) -> None:
    line = {"img": "a.png", "query": "Who?", "response": "cat", "question": "no"}
    columns = Columns(image="img", question="query", answer="response")
    found = read(save_lines(folder / "data", line), columns=columns)
    assert (found.format, found.usable[0].conversations) == ("questions", (asked("Who?", "cat"),))


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
            "choices": st.lists(st.text(max_size=2), max_size=3) | json_values,
            "hint": json_values,
            "history": st.lists(st.lists(st.text(max_size=2), max_size=2)) | json_values,
            "system": json_values,
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

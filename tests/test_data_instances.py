"""COCO's instances as questions: what is there, how many, and where, only as the boxes say."""

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.benchmarks import BENCHMARKS
from eval.benchmarks.counts import number_in
from tests.data_folders import asked, read, save_json, save_photos
from vlm.data.absent import WAYS
from vlm.data.instances import (
    COUNTED,
    Objects,
    chosen_of,
    how_many,
    is_there,
    questions_about,
    where_is,
)
from vlm.errors import DataError

CATEGORIES = {7: "dog", 3: "traffic_light", 1: "person", 2: "skis"}


def box(image: Any, category: Any, *sides: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(sides), **more}


# A dog at the upper left of a traffic light; two people in skis; a crowd, and one person besides.
COCO: dict[str, Any] = {
    "images": [
        {"id": 4, "file_name": "a.png", "width": 100, "height": 100},
        {"id": 5, "file_name": "b.png", "width": 100, "height": 100},
        {"id": "six", "file_name": "c.png"},
        {"id": 7, "file_name": "d.png"},
    ],
    "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
    "annotations": [
        box(4, 7, 5, 10, 30, 30),
        box(4, 3, 60.5, 10, 30, 80),
        *(box(5, number, 0, 0, 50, 50) for number in (1, 1, 2)),
        box("six", 1, 0, 0, 9, 9, iscrowd=1),
        box("six", 1, 20, 0, 9, 9, iscrowd=0),
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_photos(tmp_path, "a.png", "images/b.png", "c.png", "d.png")
    return tmp_path


def test_a_file_of_boxes_becomes_questions(folder: Path) -> None:
    found = read(save_json(folder / "data", COCO))
    assert (found.format, found.skipped) == ("instances", [])
    a, b, c, d = found.usable
    assert set(a.conversations) >= {
        asked("Is there a dog in the image?", "yes"),
        asked("Is there a traffic light in the image?", "yes"),
        asked("Is there a person in the image?", "no"),
        asked("Are there skis in the image?", "no"),
        asked("How many dogs are in the image?", "1"),
        asked("How many traffic lights are in the image?", "1"),
    }
    assert Counter(kind["kind"] for kind in a.kinds) == {"is there": 4, "how many": 3, "where": 3}
    assert asked("How many people are in the image?", "0") in a.conversations
    assert asked("How many people are in the image?", "2") in b.conversations
    # A pair of skis has one box, or two; a crowd has one; neither can be counted.
    assert not any("skis" in text for text in b.texts() if "many" in text)
    assert {kind["kind"] for kind in c.kinds} == {"is there"}
    # Nothing is there.
    assert [answers for _, answers in d.conversations] == [asked("", "no")[1], asked("", "0")[1]]


def test_the_same_command_asks_the_same_and_instructions_stand_behind(folder: Path) -> None:
    file = save_json(folder / "data", COCO)
    assert read(file).usable == read(file).usable
    (first,) = read(file, instruction="One word.", limit=1).usable
    assert all(part.endswith("?\nOne word.") for part in first.texts()[::2])


SIDES = {
    (5, 10, 30, 30): {"left", "top"},
    (5, 10, 30, 80): {"left"},
    (55, 55, 45, 45): {"right", "bottom"},
    # It touches the strip in the middle.
    (54, 20, 46, 60): set(),
    (0, 0, 100, 40): {"top"},
}


@pytest.mark.parametrize(("sides", "answers"), SIDES.items())
def test_the_side_of_the_image(sides: tuple[float, ...], answers: set[str]) -> None:
    photo = Objects("", "a", (100, 100), {"dog": [sides]}, set())
    found = dict(where_is(photo, random.Random(0)))
    assert set(found.values()) == answers
    assert not list(where_is(photo._replace(size=None), random.Random(0)))
    assert not list(where_is(photo._replace(crowded={"dog"}), random.Random(0)))
    assert not list(where_is(photo._replace(boxes={"dog": [sides] * 2}), random.Random(0)))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ((30, 0, 10, 10), "to the left or to the right of the car? left"),
        ((0, 12, 10, 10), "above or below the car? above"),
        ((9, 0, 10, 10), None),
        ((30, 30, 10, 10), None),
    ],
)
def test_the_side_of_another_thing(other: tuple[float, ...], said: str | None) -> None:
    photo = Objects("", "a", None, {"dog": [(0, 0, 10, 10)], "car": [other]}, set())
    # Either of them may be asked about.
    found = {" ".join(pair) for seed in range(9) for pair in where_is(photo, random.Random(seed))}
    opposite = {"left": "right", "above": "below"}
    if said is None:
        assert found == set()
    else:
        turned, answer = said.replace("car", "dog").rsplit(" ", 1)
        assert found == {f"Is the dog {said}", f"Is the car {turned} {opposite[answer]}"}


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("person", "people"),
        ("wine glass", "wine glasses"),
        ("computer mouse", "computer mice"),
        ("bus", "buses"),
        ("toothbrush", "toothbrushes"),
        ("sheep", "sheep"),
        ("cars", "cars"),
        ("y", "ys"),
    ],
)
def test_plurals(name: str, many: str) -> None:
    assert how_many(name) == f"How many {many} are in the image?"


@pytest.mark.parametrize(
    ("name", "asks"),
    [("oven", "Is there an oven"), ("tv", "Is there a tv"), ("skis", "Are there skis")],
)
def test_articles(name: str, asks: str) -> None:
    assert is_there(name) == f"{asks} in the image?"


MIDDLE = (45, 36, 10, 8)
"""The strip of a photo of 100 by 80 pixels that belongs to neither side."""

sides = st.tuples(*[st.integers(0, 90)] * 2, *[st.integers(0, 40)] * 2)
things = st.dictionaries(st.sampled_from("abcdefgh"), st.lists(sides, min_size=1, max_size=12))


@given(st.lists(st.tuples(things, st.sets(st.sampled_from("abcdefgh"))), min_size=1, max_size=5))
def test_no_question_says_what_the_boxes_do_not(photos: list[tuple[Any, set[str]]]) -> None:
    known = [
        Objects("", str(place), (100, 80), boxes, crowded & boxes.keys())
        for place, (boxes, crowded) in enumerate(photos)
    ]
    somewhere = set().union(*(photo.boxes for photo in known))
    for photo, chosen in zip(known, chosen_of(known), strict=True):
        for absent in chosen.absent.values():
            assert set(absent) == somewhere - photo.boxes.keys()
        found = list(questions_about(photo, chosen))
        assert len({question for question, _, _ in found}) == len(found)
        for question, answer, kind in found:
            name = re.search(r"(?:there an?|many|the) ([a-h])", question)[1]
            boxes = photo.boxes.get(name, [])
            if kind == "is there":
                assert (answer == "yes") == bool(boxes)
                continue
            assert name not in photo.crowded
            if kind == "how many":
                assert int(answer) == len(boxes) <= COUNTED
            else:
                (its,) = boxes
                (other,) = photo.boxes[question[-2]] if "image" not in question else [MIDDLE]
                axis = int(answer not in ("left", "right"))
                first, second = (its, other) if answer in ("left", "top", "above") else (other, its)
                assert first[axis] + first[axis + 2] <= second[axis]
        answers = Counter(answer for _, answer, kind in found if kind == "is there")
        assert answers["no"] == min(max(1, answers["yes"]), len(somewhere - photo.boxes.keys()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [box(4, 9, 0, 0, 1, 1)]}, "record 1: no category has the id 9"),
        ({"annotations": [box([4], 7, 0, 0, 1, 1)]}, "record 1: no image has the id [4]"),
        (
            {"annotations": [box(4, 7, 0, 0, 1, "1")]},
            "record 1: bbox must be four numbers: x, y, width, height",
        ),
        ({"annotations": [{"image_id": 4}]}, "record 1: category_id, bbox missing; found image_id"),
        ({"categories": [{"id": 7, "name": " "}]}, "category 7 has no name"),
        ({"categories": {}}, "a list of objects under 'categories' is needed"),
        ({"annotations": []}, "a list of objects under 'annotations' is needed"),
        ({"images": [COCO["images"][0]] * 2}, "1 ids with 'id' twice: 4"),
    ],
)
def test_what_is_not_of_cocos_form(folder: Path, change: dict[str, Any], message: str) -> None:
    file = save_json(folder / "data", COCO | change)
    with pytest.raises(DataError) as raised:
        read(file)
    assert str(raised.value).startswith(str(file))
    assert message in str(raised.value)


def test_pope_asks_of_boxes_where_its_own_questions_are_not(tmp_path: Path) -> None:
    (tmp_path / "pope" / "annotations").mkdir(parents=True)
    save_photos(tmp_path / "pope", *(f"val2017/{name}.png" for name in "abcd"))
    save_json(tmp_path / "pope" / "annotations" / "instances_train2017.json", {})
    save_json(tmp_path / "pope" / "annotations" / "instances_val2017.json", COCO)
    pope = BENCHMARKS["pope"]
    questions = pope.questions(tmp_path, None)
    # Of two things that are there, one, and two; of none that is not.
    assert Counter(q.labels["split"] for q in questions) == dict.fromkeys(WAYS, 10)
    of_a = {q.id: (q.text.split("\n")[0], q.answers) for q in questions[:4]}
    assert of_a["random_a.png/dog"] == ("Is there a dog in the image?", ("yes",))
    assert of_a["random_a.png/person"] == ("Is there a person in the image?", ("no",))
    assert all(question.photo().size == (40, 30) for question in questions)
    scores = pope.score(questions, [question.answers[0] for question in questions])
    assert scores.overall == 100
    assert scores.metric.endswith("; not POPE's own questions, but its rule's")


def test_counts_are_read_out_of_answers_and_how_far_off_they_are_is_told(tmp_path: Path) -> None:
    (tmp_path / "pope").mkdir()
    save_json(tmp_path / "pope" / "instances.json", COCO)
    counts = BENCHMARKS["counts"]
    questions = counts.questions(tmp_path, None)
    number_of = {q.id: q.answers[0] for q in questions}
    some = {"a.png/dog": "1", "a.png/traffic light": "1", "b.png/person": "2"}
    assert {name: number for name, number in number_of.items() if number != "0"} == some
    # Of one thing of each photo there is none.
    assert Counter(n.split("/")[0] for n in number_of.keys() - some) == Counter(
        f"{photo}.png" for photo in "abcd"
    )
    said = {"a.png/dog": "One.", "a.png/traffic light": "4", "b.png/person": "there are 2 people"}
    scores = counts.score(questions, [said.get(question.id, "No.") for question in questions])
    assert scores.overall == pytest.approx(100 * 6 / 7)
    assert scores.more["mean_absolute_error"] == pytest.approx(3 / 7)
    assert scores.more["mean_of_0_to_5"] == pytest.approx(100 * 2.5 / 3)
    assert scores.groups == {"per_number": {"0": 100, "1": 50, "2": 100}}
    (tmp_path / "pope" / "instances.json").unlink()
    with pytest.raises(DataError, match=r"pope: no instances\*\.json there, nor in annotations/"):
        counts.questions(tmp_path, None)


@pytest.mark.parametrize(
    ("answer", "number"),
    [("2", 2), ("Two dogs.", 2), ("none", 0), ("many", 0), ("12.", 12), ("2.5", 0), ("9" * 99, 0)],
)
def test_the_number_in_an_answer(answer: str, number: int) -> None:
    assert number_in(answer) == number

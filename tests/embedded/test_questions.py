"""Questions made from captions: what is read off them, and what is never asked."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.embedded.caption_facts import PhotoFacts, read_caption
from train.embedded.question_words import UNSURE
from train.embedded.questions import (
    does_not,
    has_other_colour,
    is_absent,
    main,
    open_questions,
    read_photo,
    true_things,
)
from vlm.data.things import THINGS
from vlm.errors import DataError

RUNNING = [
    "A black dog runs on the beach .",
    "A black dog is running on the beach .",
    "The dog is chasing a red ball at the beach .",
]


def write_captions(folder: Path, photos: list[tuple[str, str | None, list[str]]]) -> Path:
    file = folder / "captions.jsonl"
    (folder / "images").mkdir(exist_ok=True)
    lines = []
    for name, split, captions in photos:
        (folder / "images" / name).touch()
        record = {"image": name, "captions": captions}
        lines.append(json.dumps(record if split is None else {**record, "split": split}))
    file.write_text("\n".join(lines))
    return file


def read_questions(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]


def asked(captions: list[str]) -> dict[str, list[str]]:
    """The answers by kind, whatever the wording."""
    photo = read_photo("a.jpg", captions, None)
    return {a.kind: a.answers for _, a in open_questions(photo, random.Random(0))}


def test_open_questions_have_the_answers_that_captions_give() -> None:
    answers = asked(RUNNING)
    assert answers["action"] == ["Running on the beach.", "Chasing a red ball."]
    assert answers["where"] == ["On the beach.", "At the beach."]
    assert answers["object"] == ["A red ball."]
    assert answers["colour"] == ["Black."]
    two = asked(["Two young men play football .", "two men playing football", "Two men play ."])
    assert two["number"] == ["Two."]
    assert two["who"] == ["Two men.", "Two young men."]
    assert two["action"][0] == "Playing football."


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man riding a bike on a hill .", "riding a bike"),
        ("The man in the red shirt rides a bike .", "riding a bike"),
        ("A man wearing a hat is slowly riding a bike", "riding a bike"),
        ("A young man is sitting on a bench , reading .", "sitting on a bench"),
        (
            "A little man carries his red and white ball into the house",
            "carrying his red and white ball",
        ),
    ],
)
def test_what_somebody_does_is_found_behind_the_subject(caption: str, words: str) -> None:
    assert " ".join(read_caption(caption).actions[0].words) == words


@pytest.mark.parametrize(
    "caption",
    [
        "A man and a dog running on grass .",
        "A man with a dog that is running .",
        "Snow covers a man running .",
        "A dog sled is crossing the ice .",
        "",
    ],
)
def test_what_the_subject_does_is_not_guessed(caption: str) -> None:
    assert read_caption(caption).actions == []


def test_of_several_nobody_is_the_one_asked_about() -> None:
    assert PhotoFacts(RUNNING).subject == "dog"
    for more in ("Another dog looks on .", "Two dogs run .", "A dog plays with a dog ."):
        assert PhotoFacts([*RUNNING, more]).subject is None


def test_colours_on_which_captions_differ_are_not_asked() -> None:
    assert PhotoFacts(["A red ball .", "The red ball .", "A ball ."]).colours == {"ball": ("red",)}
    assert PhotoFacts(["A red ball .", "A blue ball .", "A red ball ."]).colours == {}
    assert PhotoFacts(["A red ball .", "A ball .", "A ball ."]).colours == {}
    shirts = ["A man in a blue shirt .", "The man wearing a blue shirt is old ."]
    assert PhotoFacts(shirts).colours == {"man's shirt": ("blue",)}


@pytest.mark.parametrize(
    ("thing", "caption"),
    [
        ("dog", "A puppy on grass ."),
        ("dog", "A wet animal on a leash ."),
        ("people", "A goalie ."),
        ("man", "A person ."),
        ("child", "Two boys ."),
        ("snow", "A skier ."),
        ("bicycle", "A BMX rider ."),
        ("beach", "Waves on the shore ."),
    ],
)
def test_what_may_be_there_under_another_name_is_not_denied(thing: str, caption: str) -> None:
    others = ["Nothing else .", "A view ."]
    assert not is_absent(thing, read_photo("a.jpg", [*others, caption], None))
    assert is_absent(thing, read_photo("a.jpg", others, None))


def test_a_thing_is_affirmed_if_two_captions_mean_it() -> None:
    assert true_things(read_photo("a.jpg", ["A cat .", "A kitten .", "A toy ."], None)) == ["cat"]
    assert true_things(read_photo("a.jpg", ["A cat .", "A pet .", "A bed ."], None)) == []
    statues = ["A statue of a cat .", "A cat in a painting .", "A cat ."]
    assert true_things(read_photo("a.jpg", statues, None)) == []


def test_actions_and_colours_are_denied_only_of_what_is_told_otherwise() -> None:
    running = read_photo("a.jpg", RUNNING, None)
    assert does_not("dog", "sleep", "", running)
    assert not does_not("dog", "jump", "", running)
    assert not does_not("cat", "sleep", "", running)
    assert not does_not("dog", "sleep", "beach", running)
    assert has_other_colour("dog", "white", running)
    assert not has_other_colour("dog", "gray", running)
    assert not has_other_colour("ball", "white", running)


def test_every_yes_has_a_no_in_the_same_words_and_split(tmp_path: Path) -> None:
    scenes = [
        RUNNING,
        ["A white dog sleeps on a bed .", "A white dog sleeping on a bed .", "A dog on a bed ."],
        ["A woman rides a horse .", "A woman riding a horse .", "A horse and its rider ."],
        ["A pizza on a plate .", "A pizza .", "Pizza with cheese ."],
    ]
    photos = [
        (f"{split}{copy}{number}.jpg", split, captions)
        for split in ("train", "test")
        for copy in range(4)
        for number, captions in enumerate(scenes)
    ]
    main([str(write_captions(tmp_path, photos))])
    records = read_questions(tmp_path)
    assert {record["image"] for record in records} <= {name for name, _, _ in photos}
    yes_no = [record for record in records if record["kind"] == "yes/no"]
    counts = Counter((r["split"], r["question"], r["answers"][0]) for r in yes_no)
    assert {answer for *_, answer in counts} == {"Yes.", "No."}
    for split, question, _ in counts:
        assert counts[split, question, "Yes."] == counts[split, question, "No."]
    pairs = [(record["image"], record["question"]) for record in records]
    assert len(set(pairs)) == len(pairs)


def test_the_seed_decides(tmp_path: Path) -> None:
    photos = [(f"{i}.jpg", None, RUNNING if i % 2 else ["A pizza ."] * 3) for i in range(20)]
    file = write_captions(tmp_path, photos)
    texts = []
    for seed in (0, 0, 1):
        main([str(file)], seed)
        texts.append((tmp_path / "questions.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]
    assert "split" not in json.loads(texts[0].splitlines()[0])


def test_captions_without_a_question_are_refused(tmp_path: Path) -> None:
    file = write_captions(tmp_path, [("a.jpg", None, ["Nice !"])])
    with pytest.raises(DataError, match="no question can be made of the captions of 1 photos"):
        main([str(file)])
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl"):
        main([str(tmp_path / "none.jsonl")])


def test_things_that_are_asked_for_can_be_named() -> None:
    from train.embedded.question_words import MORE_THINGS

    assert UNSURE.keys() <= THINGS.keys() | MORE_THINGS.keys()


@given(captions=st.lists(st.text(alphabet="ad ogmnistw,.'-éruéè", max_size=40), min_size=1))
def test_any_caption_is_read(captions: list[str]) -> None:
    photo = read_photo("a.jpg", captions, None)
    for text, answer in open_questions(photo, random.Random(0)):
        assert text.endswith("?")
        assert all(one.endswith(".") and one[0].isupper() for one in answer.answers)

"""Small networks that teach: what they learn, and the answers that they give to new questions."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from train.embedded.stacked_attention import UNKNOWN, StackedAttention, fit, probabilities
from train.embedded.teach import Asked, draw_pairs, main, read_questions, word_ids
from vlm.data.read import read_source
from vlm.data.source import DataSource
from vlm.errors import DataError, ImageError


def asked_of(image: str, question: str, *answers: str) -> Asked:
    return Asked(image, Path(image), question, answers or ("chair",))


def network(sees: bool, answers: int = 3) -> StackedAttention:
    torch.manual_seed(0)
    return StackedAttention(10, answers, (4, 8) if sees else None).eval()


def test_words_have_ids_and_padding_behind_them() -> None:
    vocabulary = {"what": 2, "is": 3, "on": 4}
    ids = word_ids(["What is on the desk?", "what ?", "???"], vocabulary)
    assert ids.tolist() == [
        [2, 3, 4, UNKNOWN, UNKNOWN],
        [2, 0, 0, 0, 0],
        [UNKNOWN, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("sees", [True, False])
def test_padding_changes_no_answer(sees: bool) -> None:
    photos = torch.randn(2, 4, 8)
    short = torch.tensor([[2, 3, 4], [5, 0, 0]])
    longer = torch.tensor([[2, 3, 4, 0, 0], [5, 0, 0, 0, 0]])
    answerer = network(sees)
    torch.testing.assert_close(answerer(longer, photos), answerer(short, photos))


def test_only_a_network_that_sees_depends_on_the_photo() -> None:
    question = torch.tensor([[2, 3]])
    photo = torch.randn(1, 4, 8)
    for sees in (True, False):
        answerer = network(sees)
        logits = answerer(question, photo)
        assert torch.equal(answerer(question, torch.randn(1, 4, 8)), logits) is not sees
        # Where a thing is counts: places are learned.
        assert torch.equal(answerer(question, photo.flip(1)), logits) is not sees


def test_networks_learn_what_the_question_tells_and_those_that_see_what_the_photo_tells() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(2, (640,), generator=generator)
    questions = torch.stack([2 + kinds, torch.full((640,), 4)], dim=1)
    photos = torch.randint(8, (640,), generator=generator)
    tokens = torch.randn(8, 4, 8, generator=generator).half()
    # The first kind has one answer; the second depends on the photo.
    answers = torch.where(kinds == 0, 0, 1 + photos % 2)
    right = {}
    for sees in (True, False):
        answerer = network(sees)
        torch.manual_seed(0)
        fit(answerer, questions, tokens, photos, answers)
        told = probabilities([answerer], questions, tokens, photos).argmax(dim=1) == answers
        right[sees] = [told[kinds == kind].float().mean().item() for kind in (0, 1)]
    assert right[True] == [1, 1]
    assert right[False][0] == 1
    assert right[False][1] < 0.7


def test_several_networks_answer_with_the_mean_of_their_probabilities() -> None:
    questions = torch.randint(2, 10, (100, 3))
    tokens, photos = torch.randn(5, 4, 8), torch.randint(5, (100,))
    networks = [network(True), network(False)]
    expected = sum(each(questions, tokens[photos]).softmax(dim=1) for each in networks) / 2
    torch.testing.assert_close(probabilities(networks, questions, tokens, photos), expected)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("12345")), min_size=1),
    st.integers(1, 6),
    st.integers(0, 3),
)
def test_a_photo_is_asked_what_others_were_and_it_was_not(
    rows: list[tuple[str, str]], per_photo: int, seed: int
) -> None:
    asked = [asked_of(image, question) for image, question in rows]
    pairs = draw_pairs(asked, per_photo, random.Random(seed))
    assert len(set(pairs)) == len(pairs)
    assert not set(pairs) & set(rows)
    for image in {image for image, _ in rows}:
        free = {question for _, question in rows} - {q for i, q in rows if i == image}
        drawn = {question for i, question in pairs if i == image}
        assert drawn <= free
        assert len(drawn) == min(per_photo, len(free))


ROWS = [
    {"image": "images/red.png", "question": "what colour is it ?", "answers": ["red"]},
    {"image": "images/red.png", "question": "what is on the desk ?", "answers": ["cup", "lamp"]},
    {"image": "images/blue.png", "question": "what colour is it ?", "answers": ["blue"]},
    {"image": "images/blue.png", "question": "how many chairs ?", "answers": ["2"]},
    {"image": "images/red.png", "question": "what is secret ?", "answers": ["x"], "split": "test"},
]


def write_questions(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for name in ("red", "blue"):
        Image.new("RGB", (64, 48), name).save(folder / "images" / f"{name}.png")
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps({"split": "train"} | row) + "\n" for row in rows))
    return file


def test_the_command_writes_new_questions_to_train_on(tmp_path: Path) -> None:
    file, output = write_questions(tmp_path, ROWS), tmp_path / "taught.jsonl"
    main(file, networks=2)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    asked = {(record["image"], record["question"]) for record in records}
    assert asked == {
        ("images/red.png", "how many chairs ?"),
        ("images/blue.png", "what is on the desk ?"),
    }
    known = [row["answers"] for row in ROWS[:-1]]
    assert all(record["answers"] in known for record in records)
    data = read_source(DataSource(str(output), split="train", answers="all"))
    read = {(s.photos[0].name, talk[0].parts[1]) for s in data.usable for talk in s.conversations}
    assert {question for _, question in read} == {question for _, question in asked}
    first = output.read_bytes()
    main(file, networks=2)
    assert output.read_bytes() == first


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"image": "a.png", "question": "q"},
            "line 1: answers missing; found split, image",
        ),
        ({"image": "a.png", "question": "q", "answers": []}, "line 1: no answers"),
        ({"image": "a.png", "question": 3, "answers": ["x"]}, "line 1: question is not text 3"),
        (
            {"image": "../a.png", "question": "q", "answers": ["x"]},
            "line 1: image path leaves",
        ),
        ({"image": "a.png", "question": "q", "answers": ["x"]}, "line 1: missing image a.png"),
    ],
)
def test_a_bad_question_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_questions(write_questions(tmp_path, [row]), "train")


def test_what_cannot_be_taught(tmp_path: Path) -> None:
    file, output = write_questions(tmp_path, ROWS), tmp_path / "taught.jsonl"
    with pytest.raises(DataError, match="no question in split 'val'; there are: test, train"):
        main(file, split="val")
    with pytest.raises(DataError, match="per_photo must be at least 1, not 0"):
        main(file, per_photo=0)
    with pytest.raises(DataError, match="networks must be at least 1, not -1"):
        main(file, networks=-1)
    with pytest.raises(DataError, match="every question was asked of every photo"):
        main(write_questions(tmp_path, ROWS[:2]))
    write_questions(tmp_path, ROWS)
    (tmp_path / "images" / "red.png").write_text("not a photo")
    with pytest.raises(ImageError, match=r"red\.png"):
        main(file)
    assert not output.exists()

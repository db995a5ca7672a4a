"""Names for photos without captions: the table of names, and both ways to a captions file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.embedded.captioned import read_captions
from train.embedded.imagenet import Name, imagenet_names
from train.embedded.names import as_captions, confident_names, main, with_article
from vlm.errors import DataError, ImageError

EXAMPLES = Path(__file__).parents[2] / "examples"


def write_photo(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_the_table_has_a_name_and_an_everyday_word_for_each_class() -> None:
    names = imagenet_names()
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert all(re.fullmatch(r"n\d{8}", wordnet) for wordnet in names)
    phrases = {phrase for name in names.values() for phrase in (name.name, name.plain)}
    assert [phrase for phrase in phrases if re.match(r"a [aeioAEIO](?!uro|ne)", phrase)] == []
    assert names["n02110185"] == Name("a Siberian husky", "a dog")
    assert names["n04487081"] == Name("a trolley bus", "a bus")
    assert names["n04344873"] == Name("a couch", "a couch")


def test_captions_are_sentences_each_once() -> None:
    assert as_captions(["a tabby cat", "a cat"]) == ["A tabby cat.", "A cat."]
    assert as_captions(["broccoli", "broccoli"]) == ["Broccoli."]


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.7, 0.1, 0.2], ["a tabby cat", "a cat"]),
        ([0.4, 0.4, 0.2], ["a cat"]),
        ([0.3, 0.25, 0.45], []),
        ([0.1, 0.1, 0.8], ["a sofa", "a sofa"]),
    ],
)
def test_classes_of_one_word_are_sure_together(
    probabilities: list[float], expected: list[str]
) -> None:
    names = [
        Name("a tabby cat", "a cat"),
        Name("a Persian cat", "a cat"),
        Name("a sofa", "a sofa"),
    ]
    assert confident_names(torch.tensor(probabilities), names, 0.6) == expected


def test_labelled_photos_get_their_names(tmp_path: Path) -> None:
    write_photo(tmp_path / "images" / "dog.png")
    record = {"image": "dog.png", "wordnet": "n02110185", "label": "Siberian husky"}
    (tmp_path / "labels.jsonl").write_text(json.dumps(record))
    main(tmp_path)
    (item,) = read_captions(tmp_path / "names.jsonl", "train")
    assert item.image == tmp_path / "images" / "dog.png"
    assert item.captions == ["A Siberian husky.", "A dog."]
    assert json.loads((tmp_path / "names.jsonl").read_text())["question"] == "What is this?"


def test_captioned_photos_get_the_thing_that_their_captions_agree_on(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "captions": ["A zebra.", "zebras graze"], "split": "train"},
        {"image": "b.png", "captions": ["People at a party."], "split": "train"},
        {"image": "c.png", "captions": ["A giraffe."], "split": "test"},
    ]
    for row in rows:
        Image.new("RGB", (8, 8)).save(tmp_path / row["image"])
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main(tmp_path)
    (named,) = read_captions(tmp_path / "names.jsonl")
    assert (named.image.name, named.captions) == ("a.png", ["A zebra."])


def test_a_common_thing_is_named_in_so_many_photos_and_no_more(tmp_path: Path) -> None:
    rows = [
        {"image": f"{i}.png", "captions": [f"A {thing}."], "split": "train"}
        for i, thing in enumerate(["dog", "dog", "cup", "dog", "cat", "cat"])
    ]
    for row in rows:
        Image.new("RGB", (8, 8)).save(tmp_path / str(row["image"]))
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main(tmp_path, most=2)
    named = [item.captions for item in read_captions(tmp_path / "names.jsonl")]
    assert named == [["A dog."], ["A dog."], ["A cup."], ["A cat."], ["A cat."]]
    with pytest.raises(DataError, match="most must be at least 1, not 0"):
        main(tmp_path, most=0)


@pytest.mark.parametrize(
    ("thing", "named"), [("apple", "an apple"), ("bus", "a bus"), ("skis", "skis")]
)
def test_with_article(thing: str, named: str) -> None:
    assert with_article(thing) == named


def test_captions_without_a_main_thing_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    row = {"image": "a.png", "captions": ["People at a party."], "split": "train"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"none of 1 photos in .* has a main thing"):
        main(tmp_path)


def test_other_photos_get_the_names_that_the_classifier_is_sure_of(tmp_path: Path) -> None:
    write_photo(tmp_path / "images" / "noise.png")
    (tmp_path / "images" / "coffee.png").write_bytes((EXAMPLES / "coffee.png").read_bytes())
    main(tmp_path, threshold=0.6)
    first = (tmp_path / "names.jsonl").read_bytes()
    (item,) = read_captions(tmp_path / "names.jsonl")
    assert item.image.name == "coffee.png"
    assert item.captions[-1] in ("A cup.", "A cup of coffee.")
    main(tmp_path, threshold=0.6)
    assert (tmp_path / "names.jsonl").read_bytes() == first


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"image": "a.png", "wordnet": "n1"},
            "line 1: 'n1' is not the wordnet id of one of the 1000",
        ),
        ({"image": "a.png", "wordnet": ["n"]}, r"line 1: \['n'\] is not the wordnet id"),
        ({"image": "a.png"}, "line 1: wordnet missing; found image, expected image, wordnet"),
        (
            {"image": "../a.png", "wordnet": "n02110185"},
            "line 1: image path leaves",
        ),
        ({"image": "a.png", "wordnet": "n02110185"}, "line 1: missing image a.png"),
    ],
)
def test_a_bad_label_is_named(tmp_path: Path, record: dict[str, str], message: str) -> None:
    (tmp_path / "labels.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataError, match=message):
        main(tmp_path)


def test_photos_that_cannot_be_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="threshold must be from 0 to 1, not 60"):
        main(tmp_path, threshold=60)
    with pytest.raises(DataError, match=r"no photos in .*images"):
        main(tmp_path)
    write_photo(tmp_path / "images" / "noise.png")
    with pytest.raises(DataError, match=r"no photo of 1 .* or more: lower the threshold"):
        main(tmp_path, threshold=1)
    (tmp_path / "images" / "text.png").write_text("not a photo")
    with pytest.raises(ImageError, match=r"text\.png"):
        main(tmp_path)
    assert not (tmp_path / "names.jsonl").exists()

"""The linear probe: what it learns from captions, and the names it gives to photos without them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from train.embedded.captioned import read_captions
from train.embedded.imagenet import known_things
from train.embedded.names import Guess, main, probe_guesses
from train.embedded.probe import fit, fit_detectors, mean_tokens, thing_shares
from vlm.config import VisionConfig
from vlm.data.things import THINGS
from vlm.errors import DataError
from vlm.images import load_image
from vlm.vision import load_vision

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_shares_count_the_captions_that_name_a_thing() -> None:
    shares = thing_shares(["A cat and a dog.", "A kitten.", "Two cats", "A sunny day."])
    named = {thing: share for thing, share in zip(THINGS, shares.tolist(), strict=True) if share}
    assert named == {"cat": 0.75, "dog": 0.25}
    assert thing_shares(["A sunny day."]).sum() == 0


def test_a_probe_tells_apart_what_a_line_can_and_is_the_same_each_time() -> None:
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    shares = torch.nn.functional.one_hot((features[:, 0] > 0).long(), 3).float()
    probe = fit(features, shares)
    right = probe.logits(features).argmax(dim=1) == shares.argmax(dim=1)
    assert right.float().mean() >= 0.9
    assert torch.equal(probe.weight, fit(features, shares).weight)


def test_mean_tokens_are_those_of_the_tower() -> None:
    tower = load_vision(VisionConfig())
    images = [EXAMPLES / "coffee.png", EXAMPLES / "chelsea.png"]
    expected = tower(tower.preprocessing.batch([load_image(images[1])])).mean(dim=1)
    torch.testing.assert_close(mean_tokens(tower, images, "")[1:], expected)


def test_what_is_known_before_is_not_learnt_again() -> None:
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    shares = torch.nn.functional.one_hot((features[:, 0] > 0).long(), 3).float()
    probe = fit(features, shares, 30 * shares)
    assert probe.weight.abs().max() < 0.05 < fit(features, shares).weight.abs().max()


def test_detectors_say_by_themselves_what_is_there() -> None:
    features = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    there = torch.stack([features[:, 0] > 0, features[:, 1] > 0, features[:, 0] > 9], dim=1)
    logits = fit_detectors(features, there.float(), torch.ones(60)).logits(features)
    for thing in range(2):
        apart = logits[there[:, thing], thing][:, None] > logits[~there[:, thing], thing]
        assert apart.float().mean() > 0.9
    assert (logits[:, 2] < -2).all()


def test_the_classifier_knows_a_cat_before_any_caption() -> None:
    tower = load_vision(VisionConfig())
    known = known_things(mean_tokens(tower, [EXAMPLES / "chelsea.png"], ""))
    assert list(THINGS)[known.argmax()] == "cat"


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """Two photos and their mirror images, with captions."""
    folder = tmp_path / "captioned"
    (folder / "images").mkdir(parents=True)
    lines = []
    for name, caption in (("chelsea", "a cat looks up ."), ("coffee", "A mug of coffee.")):
        photo = load_image(EXAMPLES / f"{name}.png")
        for file, view in ((f"{name}.png", photo), (f"{name}_2.png", ImageOps.mirror(photo))):
            view.save(folder / "images" / file)
            lines.append({"image": file, "captions": [caption], "split": "train"})
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "captions.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_captioned_photos_teach_names_for_others_of_their_kind(
    captioned: Path, tmp_path: Path
) -> None:
    data = tmp_path / "others"
    (data / "images").mkdir(parents=True)
    for name in ("chelsea", "coffee"):
        photo = load_image(EXAMPLES / f"{name}.png")
        photo.crop((10, 10, photo.width - 10, photo.height - 10)).save(
            data / "images" / f"{name}.png"
        )
    main(data, threshold=0.6, like=captioned)
    named = {item.image.name: item.captions for item in read_captions(data / "names.jsonl")}
    assert named == {"chelsea.png": ["A cat."], "coffee.png": ["A cup."]}
    borrowed = {item.image.name: item.captions for item in read_captions(data / "borrowed.jsonl")}
    assert borrowed == {"chelsea.png": ["A cat looks up."], "coffee.png": ["A mug of coffee."]}


def test_captions_are_borrowed_from_the_photo_most_alike_and_only_where_they_name_the_thing(
    captioned: Path,
) -> None:
    lines = [json.loads(line) for line in (captioned / "captions.jsonl").read_text().splitlines()]
    for line in lines:
        if line["image"] == "chelsea_2.png":
            line["captions"] = ["A cat looks left.", "A kitten.", "So soft!"]
    (captioned / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    images = [captioned / "images" / "chelsea_2.png", captioned / "images" / "coffee.png"]
    guesses = probe_guesses(images, captioned, 0.5)
    assert guesses == {
        images[0]: Guess("cat", ["A cat looks left.", "A kitten."]),
        images[1]: Guess("cup", ["A mug of coffee."]),
    }


def test_captions_that_name_nothing_teach_nothing(captioned: Path) -> None:
    line = {"image": "coffee.png", "captions": ["A sunny day."], "split": "train"}
    (captioned / "captions.jsonl").write_text(json.dumps(line))
    images = [EXAMPLES / "coffee.png"]
    with pytest.raises(DataError, match="the captions of 0 of 1 photos name a thing"):
        probe_guesses(images, captioned, 0.5)


def test_without_captions_to_learn_from_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match=r"captions.jsonl"):
        main(tmp_path, like=tmp_path / "nowhere")

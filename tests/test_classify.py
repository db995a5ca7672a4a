"""Classify: probabilities as the reference has them, and a line for whatever is wrong."""

import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel, SiglipModel

from tests import tiny
from tests.clip_folders import clip_folder, reference, siglip_folder
from vlm.classify import SHOWN, class_features
from vlm.cli import main
from vlm.clip import load_clip

LABELS = ["a cat", "two dogs", "the grass"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return siglip_folder(tmp_path_factory.mktemp("siglip"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    tiny.photo().save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def classify(*words: str | Path, model: Path) -> int:
    return main(["classify", *map(str, words), "--model", str(model), "--device", "cpu"])


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_scores_equal_transformers(
    family: str, photo: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    model = request.getfixturevalue(family)
    assert classify(photo, "--labels", " a cat,two  dogs, the grass,", "--json", model=model) == 0
    said = json.loads(capsys.readouterr().out)
    texts = [f"a photo of {label}" for label in LABELS]
    kind = CLIPModel if family == "clip" else SiglipModel
    logits = reference(model, kind, [tiny.photo()], texts).logits_per_image[0]
    wanted = logits.softmax(dim=-1) if family == "clip" else logits.sigmoid()
    ranked = sorted(zip(LABELS, wanted.tolist(), strict=True), key=lambda each: -each[1])
    assert said["image"] == str(photo)
    assert list(said["scores"]) == [label for label, _ in ranked]
    assert said["scores"] == pytest.approx(dict(ranked), abs=1e-5)


def test_several_templates_are_averaged(clip: Path) -> None:
    model = load_clip(str(clip), "cpu")
    found = class_features(model, LABELS, ["a photo of {}", "{} outside"])
    for row, label in zip(found, LABELS, strict=True):
        mean = model.text_features([f"a photo of {label}", f"{label} outside"]).mean(dim=0)
        torch.testing.assert_close(row, mean / mean.norm(), rtol=0, atol=1e-6)


def test_templates_change_scores(
    photo: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = []
    for templates in ([], ["{}"], ["{}", "a photo of {}"]):
        options = [word for each in templates for word in ("--template", each)]
        assert classify(photo, "--labels", "a cat, a dog", "--json", *options, model=clip) == 0
        scores.append(json.loads(capsys.readouterr().out)["scores"]["a cat"])
    assert len(set(scores)) == 3


def test_labels_come_from_a_file_and_few_are_printed(
    photo: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("a cat, asleep\n\n" + "\n".join(f"thing {at}" for at in range(9)) + "\n")
    assert classify(photo, "--labels", file, "--json", model=clip) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert len(scores) == 10
    assert "a cat, asleep" in scores
    assert classify(photo, "--labels", file, model=clip) == 0
    name, *lines, last = capsys.readouterr().out.splitlines()
    assert name == str(photo)
    best = list(scores.items())[:SHOWN]
    assert lines == [f"  {score:6.1%}  {label}" for label, score in best]
    assert last == "  and 5 labels below that; --json has all"


def test_a_photo_that_cannot_be_read_stops_no_other(
    photo: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["missing.jpg", photo, "--labels", "a cat, a dog"]
    assert classify(*words, model=clip) == 1
    said = capsys.readouterr()
    assert said.out.startswith(str(photo))
    assert "cannot read 'missing.jpg': No such file or directory\n" in said.err
    assert said.err.endswith("vlm: 1 of 2 photos could not be read, see above\n")
    assert classify(*words, "--json", model=clip) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "image": "missing.jpg",
        "error": "cannot read 'missing.jpg': No such file or directory",
    }
    assert second["scores"].keys() == {"a cat", "a dog"}


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_a_strip_is_classified(
    size: tuple[int, int], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.photo(size=size).save(tmp_path / "strip.png")
    assert classify(tmp_path / "strip.png", "--labels", "a cat, a dog", "--json", model=clip) == 0
    assert sum(json.loads(capsys.readouterr().out)["scores"].values()) == pytest.approx(1)


def test_one_label_is_enough_for_a_sigmoid_only(
    photo: Path, clip: Path, siglip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert classify(photo, "--labels", "a cat", model=siglip) == 0
    capsys.readouterr()
    assert classify(photo, "--labels", "a cat", model=clip) == 2
    assert "one label, 'a cat', would always have 100%" in capsys.readouterr().err


def test_a_label_that_is_too_long_is_told(
    photo: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert classify(photo, "--labels", "a cat, " + "very long " * 20, model=clip) == 0
    assert (
        "1 too long for the model, the end is not read: a photo of very long"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], 2, "`labels` is missing; see vlm classify --help"),
        (["--labels", " , "], 2, "no labels: give some such as 'a cat, a dog'"),
        (["--labels", "a cat, a dog, A  cat"], 2, "label 'A cat' is there twice: name each once"),
        (["--labels", "none.txt"], 1, "cannot read none.txt: No such file or directory"),
        (["--labels", "a, b", "--template", "a photo"], 2, "template 'a photo' needs one {}, wh"),
        (["--labels", "a, b", "--template", "[]"], 2, "template '' needs one {}, where the label"),
    ],
)
def test_wrong_labels_are_told(
    options: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert classify("photo.jpg", *options, model=Path("none")) == status
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith(f"vlm: {message}")


def test_an_empty_file_of_labels_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels").write_text("\n \n")
    labels = ["--labels", str(tmp_path / "labels")]
    assert classify("photo.jpg", *labels, model=Path("none")) == 2
    told = f"vlm: no labels: give some in {tmp_path / 'labels'}, one in each line\n"
    assert capsys.readouterr().err == told
    assert main(["classify", *labels, "--model", "none"]) == 2
    assert capsys.readouterr().err.startswith("vlm: ")

"""Data of whole runs: sources, caches, and samples that cannot be used."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from tests import tiny, tiny_folders, tiny_runs
from tests.data_folders import save_lines, save_photos
from tests.tiny_runs import elsewhere
from train import run as train_run
from train.config import TrainConfig
from train.epochs import Epochs
from train.run import train
from vlm.data.read import read_sources
from vlm.data.sample import Skipped
from vlm.data.source import DataSource
from vlm.errors import DataError, PromptError


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return tiny_runs.run_config(tmp_path)


@pytest.fixture
def instruct(config: TrainConfig) -> TrainConfig:
    return tiny_runs.instruct(config)


def test_weights_of_sources_mix_them(config: TrainConfig) -> None:
    train_split, val_split = (replace(config.data[0], split=split) for split in ("train", "val"))
    mixed = replace(config, data=[replace(train_split, weight=0.4), replace(val_split, weight=3)])
    train(replace(mixed, epochs=1))
    assert sum(tiny_runs.metrics(config, "images")) == 0.4 * 5 + 3 * 2


def test_augmentation_trains_on_other_views_and_encodes_nothing(
    config: TrainConfig, tmp_path: Path
) -> None:
    train(config)
    plain = tiny_runs.metrics(config)
    data = [replace(config.data[0], augment=True)]
    other = elsewhere(config, data=data, cache_folder=tmp_path / "none")
    train(other)
    assert len(tiny_runs.metrics(other)) == len(plain)
    assert tiny_runs.metrics(other) != plain
    assert not (tmp_path / "none").exists()


def test_cached_features_give_the_losses_of_the_tower(config: TrainConfig) -> None:
    train(replace(config, cache="on"))
    other = elsewhere(config, cache="off")
    train(other)
    assert tiny_runs.metrics(config) == pytest.approx(tiny_runs.metrics(other), rel=1e-3)
    assert tiny_runs.metrics(config) != tiny_runs.metrics(other)


def test_a_short_run_is_not_worth_a_cache(
    config: TrainConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_run, "MEASURED", 1)
    train(replace(config, epochs=50, max_steps=1))
    told = " ".join(capsys.readouterr().err.split())
    assert "no vision features are cached: the run is short, a cache would save 0 of 2 pass" in told


def test_only_photos_that_come_are_encoded(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [replace(config.data[0], weight=2 / 7)]
    train(replace(config, data=data, cache="on"))
    told = " ".join(capsys.readouterr().err.split())
    assert "of 4 passes" in told
    assert "features: 4 photos, " in told


def test_a_cache_without_room(config: TrainConfig) -> None:
    with pytest.raises(
        DataError,
        match=r"^cache=on, and the features of 7 photos have no room in the 1e-09 GB of cache_gb: "
        "make it more, or choose cache=auto$",
    ):
        train(replace(config, cache="on", cache_gb=1e-9))


def test_a_damaged_cache_ends_the_run_and_its_workers(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, cache="on", workers=2)
    train(config)
    (features,) = tmp_path.glob("features/*.features")
    features.write_bytes(b"")
    done = tiny_runs.run(replace(config, output=tmp_path / "other"), tmp_path / "run.json")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"vlm: {features} is damaged: delete ")
    assert "Traceback" not in done.stderr


def test_texts_are_shortened(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    train(elsewhere(config, epochs=1, pack="none"))
    assert "max_length" not in capsys.readouterr().err
    train(replace(config, epochs=1, pack="none", max_length=54))
    cut = sum(tiny_runs.metrics(config, "cut"))
    assert 0 < cut < 13
    told = f"dropped from samples: {cut} answer cut or left out by max_length, in the first epoch"
    assert told in capsys.readouterr().err.splitlines()
    tokens = [sum(tiny_runs.metrics(c, "tokens")) for c in (config, elsewhere(config))]
    assert tokens[0] < min(tokens[1], 13 * 54)
    images = [sum(tiny_runs.metrics(c, "images")) for c in (config, elsewhere(config))]
    assert images[0] == images[1] == 13


@pytest.mark.parametrize("cache", ["on", "off"])
def test_broken_photos_are_counted_while_it_runs(config: TrainConfig, cache: str) -> None:
    photo = Path(config.data[0].path).with_name("1.png")
    photo.write_bytes(b"no picture")
    config = replace(config, cache=cache)
    train(replace(config, allowed_unusable=0.2, workers=1))
    lines = (config.output / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = [(json.loads(line)["reason"], str(photo) in line) for line in lines]
    # Of both epochs, once.
    assert reasons == [("broken image", True)]
    assert sum(tiny_runs.metrics(config, "images")) == 2 * 6
    asked = (config.output / "answers.jsonl").read_text(encoding="utf-8")
    assert "0.png" in asked
    assert "1.png" not in asked
    with pytest.raises(DataError, match=r"^1 of 7 samples cannot be used \(1 broken image\), more"):
        train(elsewhere(config))


def test_what_was_skipped_before_the_run_counts(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [Path(config.data[0].path).with_name(f"{number}.png") for number in (1, 2)]
    photos[0].write_bytes(b"no picture")
    photos[1].unlink()
    with pytest.raises(
        DataError,
        match=r"^2 of 7 samples cannot be used \(1 missing image, 1 broken image\), more than the "
        r"0\.2 that allowed_unusable allows: see",
    ):
        train(replace(config, allowed_unusable=0.2))
    assert "skipped: 1 missing image of 7 samples" in capsys.readouterr().err
    train(elsewhere(config, allowed_unusable=0.3))
    told = capsys.readouterr().err.strip().splitlines()
    assert "skipped: 1 missing image, 1 broken image; see " in " ".join(told[-3:])


def test_a_photo_that_changes_is_skipped(config: TrainConfig) -> None:
    photos = [Path(config.data[0].path).with_name(f"{number}.png") for number in (3, 4)]

    def change(step: int) -> None:
        if step == 4:
            photos[0].write_bytes(photos[1].read_bytes() + b"?")

    with tiny_runs.after_each_step(change), pytest.raises(DataError, match=r"\(1 changed image\)"):
        train(replace(config, cache="on"))
    report = (config.output / "skipped.jsonl").read_text(encoding="utf-8")
    assert "3.png is not what it was when the run began" in report


def test_a_report_outlives_a_resumed_run(config: TrainConfig) -> None:
    Path(config.data[0].path).with_name("1.png").write_bytes(b"no picture")
    config = replace(config, allowed_unusable=0.2)
    train(config)
    report = config.output / "skipped.jsonl"
    before = report.read_text(encoding="utf-8")
    train(replace(config, resume=True))
    assert report.read_text(encoding="utf-8") == before


def test_broken_validation_photos_are_counted(instruct: TrainConfig) -> None:
    photo = Path(instruct.data[0].path).with_name("6.png")
    photo.write_bytes(b"no picture")
    train(replace(instruct, allowed_unusable=0.5, epochs=2))
    lines = (instruct.output / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert [str(photo) in line for line in lines] == [True]
    with pytest.raises(DataError, match=r"^1 of 7 samples cannot be used \(1 broken image\), more"):
        train(elsewhere(instruct))


def test_conversations_without_photos_train_too(instruct: TrainConfig, tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "What is the capital of France?"},
        {"from": "gpt", "value": "Paris."},
    ]
    texts = [{"id": str(number), "conversations": turns} for number in range(3)]
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    data = [*instruct.data, DataSource(str(tmp_path / "texts.json"))]
    train(replace(instruct, data=data))
    assert sum(tiny_runs.metrics(instruct, "images")) == 5
    train(elsewhere(instruct, data=data[1:], validation=None))
    assert sum(tiny_runs.metrics(elsewhere(instruct), "images")) == 0


def test_nothing_to_train_on(config: TrainConfig) -> None:
    for data in ([], [replace(config.data[0], weight=0.01)]):
        with pytest.raises(DataError, match=r"^there are no samples to train on: see data, and it"):
            train(replace(config, data=data))


def test_a_missing_data_file(config: TrainConfig) -> None:
    with pytest.raises(DataError, match=r"^no data at 'none\.jsonl'"):
        train(replace(config, data=[DataSource("none.jsonl")]))


def test_an_image_root_that_is_not_there(config: TrainConfig, tmp_path: Path) -> None:
    source = replace(config.data[0], images=tmp_path / "none")
    with pytest.raises(DataError, match=r"^no folder .*none for the images of .*captions\.jsonl$"):
        train(replace(config, data=[source]))


def test_missing_photos(config: TrainConfig) -> None:
    Path(config.data[0].path).with_name("3.png").unlink()
    with pytest.raises(
        DataError, match=r"^1 of 7 samples cannot be used \(1 missing image\), more than the 0\.01"
    ):
        train(config)
    assert not (config.output / "metrics.jsonl").exists()
    train(replace(config, allowed_unusable=0.15, epochs=1))
    assert sum(tiny_runs.metrics(config, "images")) == 6


def test_a_cache_of_another_tower(config: TrainConfig, tmp_path: Path) -> None:
    train(replace(config, cache="on"))
    model = tiny_folders.model_config(tmp_path / "parts")
    model.vision.layers = [-1]
    with pytest.raises(DataError, match=r"features.*layers"):
        train(elsewhere(config, model=model, cache="on"))


def test_what_is_asked_during_a_run_is_what_is_trained_up_to_the_first_answer(
    tmp_path: Path, config: TrainConfig
) -> None:
    save_photos(tmp_path, "0.png", "1.png")
    turns = [
        ("human", "Who <image> is it?"),
        ("gpt", "A cat."),
        ("human", "<image>?"),
        ("gpt", "So."),
    ]
    said = [{"from": who, "value": text} for who, text in turns]
    line = {"image": ["0.png", "1.png"], "system": "Be brief.", "conversations": said}
    config.data = [DataSource(str(save_lines(tmp_path / "chat.jsonl", line)))]
    model, sources = tiny.vision_language_model(), read_sources(config.data)
    epochs = Epochs(config, model, Accelerator(cpu=True), sources, [], [])
    ((photos, question, messages),) = epochs.questions(answer_length=8)
    assert (photos, question) == (str(tmp_path / "0.png"), "Who \n is it?")
    (whole,) = sources[0].usable[0].messages(random.Random(0))
    trained = model.prompt(whole, answer_next=False).input_ids
    asked = model.prompt(messages).input_ids
    assert asked == trained[: len(asked)]


@pytest.mark.parametrize("max_steps", [None, 5])
def test_each_photo_that_comes_is_encoded_once(config: TrainConfig, max_steps: int | None) -> None:
    file = Path(config.data[0].path)
    with file.open("a") as lines:
        lines.write(json.dumps({"image": ["6.png", "0.png"], "text": "two"}) + "\n")
    config = replace(config, max_steps=max_steps, epochs=2, validate_every=2)
    config.data = [replace(config.data[0], weight=0.5), config.data[0]]
    config.validation = [replace(config.data[0], split="val")]
    sources, validation = read_sources(config.data), read_sources(config.validation)
    model = tiny.vision_language_model()
    epochs = Epochs(config, model, Accelerator(cpu=True), sources, validation, [])
    held_out = [photo for sample in epochs.held_out for photo in sample.photos]
    coming, steps = [], 0
    for epoch in range(2):
        if steps < epochs.total_steps:
            coming += [p for at in epochs.order(epoch) for p in epochs.samples[at].photos]
            steps += epochs.steps(epoch)
    photos, passes = epochs.to_encode()
    assert list(photos) == photos[:] == list(dict.fromkeys(held_out + coming))
    within = epochs.total_steps // 2
    share = epochs.total_steps / steps
    assert passes == len(held_out) * (2 + within) + len(coming) * share


def test_a_conversation_that_the_chat_template_refuses_is_skipped(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sources = tiny.vision_language_model(), read_sources(config.data)
    epochs = Epochs(config, model, Accelerator(cpu=True), sources, [], [])
    sample = epochs.samples[0]

    def refuse(*_: object, **__: object) -> None:
        raise PromptError("the chat template refuses this conversation: no system messages")

    monkeypatch.setattr(model, "prompt", refuse)
    reason = "refused by the chat template"
    told = "the chat template refuses this conversation: no system messages"
    found = epochs.dataset([sample], None, epoch=0)[0]
    assert found == Skipped(sample.where, reason, told)
    assert epochs.questions(answer_length=8) == []

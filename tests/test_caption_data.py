"""Caption data of stage 1: sources, questions, captions and the batches of an epoch."""

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from train.captions import (
    CaptionRows,
    CaptionSample,
    CaptionSource,
    augment,
    caption_prompts,
    epoch_batches,
    read_sources,
    tidy,
)
from train.features import FeatureCache
from vlm.captions import CaptionedImage
from vlm.config import VisionConfig
from vlm.errors import ConfigError, DataError
from vlm.model import VisionLanguageModel
from vlm.prompt import Prompt


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vision_language_model()


@pytest.fixture
def rows(model: VisionLanguageModel, tmp_path: Path) -> CaptionRows:
    """Epoch 0 of four photos with 1, 2, 3 and 4 captions and four questions."""
    samples = []
    for number in range(4):
        photo = tmp_path / f"{number}.png"
        tiny.photo(number).save(photo)
        captions = [f"a cat sits on {i} dogs ." for i in range(number + 1)]
        samples.append(
            CaptionSample(CaptionedImage(photo, captions), ("Who", "What", "Why", "How"))
        )
    photos = [sample.photo.image for sample in samples]
    config, cpu = VisionConfig("tiny"), torch.device("cpu")
    features = FeatureCache(model.vision, config, photos, tmp_path / "features", cpu)
    return CaptionRows(model, features, samples, seed=0, epoch=0)


def text(prompt: Prompt) -> str:
    """All that is not an image slot."""
    return tiny.tokenizer().decode([token for token in prompt.input_ids if token >= 0])


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a black dog runs . ", "A black dog runs."),
        ("  A dog\n and  a cat", "A dog and a cat."),
        ("a dog...", "A dog."),
        ("what a dog!", "What a dog!"),
        ("3 dogs", "3 dogs."),
        ("éclairs", "Éclairs."),
    ],
)
def test_tidy(caption: str, expected: str) -> None:
    assert tidy(caption) == expected


@given(caption=st.text())
def test_what_is_tidy_stays_as_it_is(caption: str) -> None:
    assert tidy(tidy(caption)) == tidy(caption)


def test_each_different_caption_is_a_conversation(rows: CaptionRows) -> None:
    photo = CaptionedImage(rows.samples[0].photo.image, ["a cat .", "A cat.", "two dogs"])
    prompts = caption_prompts(rows.model, CaptionSample(photo, ("What?",)), random.Random(0))
    assert [text(prompt).split("assistant\n")[1] for prompt in prompts] == [
        "A cat.<|im_end|>\n",
        "Two dogs.<|im_end|>\n",
    ]


def test_questions_are_drawn_by_seed_epoch_and_photo(rows: CaptionRows) -> None:
    def questions(seed: int, epoch: int) -> list[str]:
        drawn = CaptionRows(rows.model, rows.features, rows.samples * 5, seed, epoch)
        together = [{text(p).split("user\n\n")[1].split("<")[0] for p in row} for row, _ in drawn]
        assert all(len(found) == 1 for found in together)
        return [found.pop() for found in together]

    first = questions(seed=0, epoch=0)
    assert set(first) == {"Who", "What", "Why", "How"}
    assert questions(seed=0, epoch=0) == first
    assert questions(seed=0, epoch=1) != first
    assert questions(seed=1, epoch=0) != first


def test_a_batch_has_a_row_and_the_features_of_each_photo(rows: CaptionRows) -> None:
    batch = rows.batch([rows[2], rows[0]])
    photos = [rows.samples[number].photo.image for number in (2, 0)]
    assert torch.equal(batch.images, rows.features[photos])
    assert batch.images_per_row == (1, 1)
    ends = (batch.target_ids == tiny.tokenizer().eos_token_id).nonzero()[:, 0]
    assert batch.target_rows[ends].tolist() == [0, 0, 0, 1]


def test_without_features_a_batch_has_pixel_values_that_differ_by_epoch(rows: CaptionRows) -> None:
    def pixels(epoch: int) -> torch.Tensor:
        augmented = CaptionRows(rows.model, None, rows.samples, 0, epoch)
        return augmented.batch([augmented[0], augmented[1]]).images

    size = rows.model.vision.preprocessing.size
    assert pixels(epoch=0).shape == (2, 3, size, size)
    assert torch.equal(pixels(epoch=0), pixels(epoch=0))
    assert not torch.equal(pixels(epoch=0), pixels(epoch=1))


@given(st.integers(1, 60), st.integers(1, 60), st.integers())
def test_augment_keeps_most_of_a_photo(width: int, height: int, seed: int) -> None:
    part = augment(tiny.photo(size=(width, height)), random.Random(seed))
    assert 1 <= part.width <= width
    assert 1 <= part.height <= height
    # Each side is rounded to a pixel.
    assert (part.width + 0.5) * (part.height + 0.5) >= 0.6 * width * height


def test_the_loader_gives_every_photo_once(rows: CaptionRows) -> None:
    batches = list(rows.loader(batch_size=3, workers=0, rank=0, world=1))
    assert [len(batch.input_ids) for batch in batches] == [3, 1]
    seen = torch.cat([batch.images for batch in batches]).flatten(1).sum(dim=1)
    photos = [sample.photo.image for sample in rows.samples]
    expected = rows.features[photos].flatten(1).sum(dim=1)
    assert sorted(seen.tolist()) == sorted(expected.tolist())


lengths = st.lists(st.integers(1, 400), max_size=60)
small = st.integers(1, 4)


@given(lengths=lengths, batch_size=small, world=small, accumulate=small, seed=st.integers())
def test_epoch_batches(
    lengths: list[int], batch_size: int, world: int, accumulate: int, seed: int
) -> None:
    def batches(rank: int, world: int, accumulate: int) -> list[list[int]]:
        return epoch_batches(lengths, batch_size, seed, 3, rank, world, accumulate)

    everyone = [batches(rank, world, accumulate) for rank in range(world)]
    assert everyone == [batches(rank, world, accumulate) for rank in range(world)]
    assert len({len(own) for own in everyone}) == 1
    # One more only in a last step too small for all to accumulate alike.
    assert all(1 <= len(batch) <= batch_size + 1 for own in everyone for batch in own)
    seen = [index for own in everyone for batch in own for index in batch]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(len(lengths)))
    assert len(lengths) - len(seen) < world


@given(lengths=lengths, batch_size=small, world=small)
def test_processes_see_together_what_one_that_accumulates_sees(
    lengths: list[int], batch_size: int, world: int
) -> None:
    many = [epoch_batches(lengths, batch_size, 0, 0, rank, world) for rank in range(world)]
    one = epoch_batches(lengths, batch_size, 0, 0, accumulate=world)
    full = len(lengths) // (batch_size * world)
    for step in range(full):
        together = {index for own in many for index in own[step]}
        assert together == {i for b in one[step * world : (step + 1) * world] for i in b}


def test_batches_hold_samples_of_like_length_and_alternate() -> None:
    lengths = [20, 300] * 64
    batches = epoch_batches(lengths, 8, 0, 0)
    kinds = [{lengths[index] for index in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    assert kinds != sorted(kinds, key=max)
    assert kinds != sorted(kinds, key=max, reverse=True)


def test_epochs_and_seeds_shuffle_differently() -> None:
    same = [10] * 20
    orders = {str(epoch_batches(same, 4, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    lines = [
        {"image": "a.png", "captions": ["A cat."], "split": "train", "question": "What is it?"},
        {"image": "b.png", "captions": ["A dog."], "split": "val"},
    ]
    for line in lines:
        tiny.photo().save(tmp_path / line["image"])
    file = tmp_path / "captions.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return file


def test_a_limit_keeps_the_first_photos(file: Path) -> None:
    (first,) = read_sources([CaptionSource(file, split="train", limit=1)])
    assert first == read_sources([CaptionSource(file, split="train")])[0]
    with pytest.raises(ConfigError, match=r"^limit must be at least 1, not 0$"):
        CaptionSource(file, limit=0)


def test_sources_are_read_in_order_and_repeated(file: Path) -> None:
    twice = CaptionSource(file, split="train", repeat=2)
    samples = read_sources([twice, CaptionSource(file, questions=["Why?", "How?"])])
    assert [(sample.photo.image.name, sample.questions) for sample in samples] == [
        ("a.png", ("What is it?",)),
        ("a.png", ("What is it?",)),
        ("a.png", ("What is it?",)),
        ("b.png", ("Why?", "How?")),
    ]


def test_source_errors(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^repeat must be at least 1, not 0$"):
        CaptionSource(file, repeat=0)
    with pytest.raises(ConfigError, match=r"captions\.jsonl needs at least one question$"):
        CaptionSource(file, questions=[])
    with pytest.raises(DataError, match=r"^cannot read none\.jsonl: No such file or directory$"):
        read_sources([CaptionSource(Path("none.jsonl"))])

"""Samples of an epoch: prompts that fit, photos as features or pixel values, what is skipped."""

import multiprocessing
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from tests import tiny
from tests.data_folders import asked, captions
from train.config import TrainConfig
from train.features import FeatureCache
from train.loader import (
    EpochSamples,
    PhotoReader,
    Prepared,
    PromptBuilder,
    cut_answers,
    first_prompts,
    prepared_batches,
    shorten,
)
from train.loss import target_loss
from vlm.config import VisionConfig
from vlm.data.photos import FilePhoto
from vlm.data.sample import Conversation, Message, Sample, Skipped, SkipSample
from vlm.errors import DataError
from vlm.model import VisionLanguageModel
from vlm.prompt import IMAGE_SLOT, Prompt

QUESTIONS = ("Who", "What", "Why", "How")
END = ([True], [True, False])
"""What is supervised at the end of an answer, and behind it."""


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vision_language_model()


@pytest.fixture(scope="module")
def prompt(model: VisionLanguageModel) -> PromptBuilder:
    return lambda messages: model.prompt(messages, answer_next=False)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Photos with 1, 2, 3 and 4 captions and four questions."""
    samples = []
    for number in range(4):
        tiny.photo(number).save(tmp_path / f"{number}.png")
        texts = captions(*(f"A cat sits on {i} dogs." for i in range(number + 1)))
        photo = FilePhoto(tmp_path / f"{number}.png")
        samples.append(Sample(f"line {number}", (photo,), texts, QUESTIONS))
    return samples


@pytest.fixture
def photos(model: VisionLanguageModel) -> PhotoReader:
    """Pixel values."""
    shape = (model.vision.num_tokens, model.vision.width)
    return PhotoReader(model.vision.preprocessing, None, shape)


@pytest.fixture
def rows(samples: list[Sample], photos: PhotoReader, prompt: PromptBuilder) -> EpochSamples:
    """The first epoch."""
    config = TrainConfig(data=[], row_length=512)
    return EpochSamples(samples, photos, prompt, config, max_length=512, epoch=0)


def configured(rows: EpochSamples, **settings: object) -> EpochSamples:
    """The same with other settings of the config."""
    return replace(rows, config=replace(rows.config, **settings))


@pytest.fixture
def cached(
    samples: list[Sample], model: VisionLanguageModel, photos: PhotoReader, tmp_path: Path
) -> PhotoReader:
    """Features of the photos."""
    tower = model.vision
    cache = FeatureCache(tmp_path / "features", tower, VisionConfig("tiny"), 10**9)
    cache.fill([s.photos[0] for s in samples], torch.device("cpu"), Console(quiet=True))
    return replace(photos, features=cache)


def text(prompt: Prompt) -> str:
    """All that is not an image slot."""
    return tiny.tokenizer().decode([token for token in prompt.input_ids if token >= 0])


@st.composite
def conversations(draw: st.DrawFn) -> Prompt:
    """Images and text in any order, parts of the text supervised."""
    ids: list[int] = []
    mask: list[bool] = []
    slots: list[slice] = []
    for kind in draw(st.lists(st.sampled_from(["image", "question", "answer"]), max_size=6)):
        length = draw(st.integers(1, 8))
        if kind == "image":
            slots.append(slice(len(ids), len(ids) + length))
        ids += [IMAGE_SLOT if kind == "image" else 7] * length
        mask += [kind == "answer"] * length
    return Prompt(ids, mask, slots, [None] * len(slots))


@given(prompt=conversations(), max_length=st.integers(1, 40))
def test_text_is_shortened_and_images_are_never_cut(prompt: Prompt, max_length: int) -> None:
    last = max((slot.stop for slot in prompt.image_slots), default=0)
    fits = last <= max_length and any(prompt.loss_mask[:max_length])
    if len(prompt) > max_length and not fits:
        with pytest.raises(SkipSample) as told:
            shorten(prompt, max_length)
        detail = f"{len(prompt)} tokens do not fit into {max_length}"
        assert (told.value.reason, told.value.detail) == ("too long", detail)
        return
    short = shorten(prompt, max_length)
    assert len(short) == min(len(prompt), max_length)
    assert short.input_ids == prompt.input_ids[:max_length]
    assert short.loss_mask == prompt.loss_mask[:max_length]
    assert (short.image_slots, short.images) == (prompt.image_slots, prompt.images)
    image_tokens = sum(slot.stop - slot.start for slot in prompt.image_slots)
    assert short.input_ids.count(IMAGE_SLOT) == image_tokens
    assert any(short.loss_mask) or len(prompt) <= max_length


@given(prompt=conversations(), max_length=st.integers(1, 40))
def test_answers_that_are_cut_are_counted(prompt: Prompt, max_length: int) -> None:
    ends = [at for at in range(1, len(prompt) + 1) if prompt.loss_mask[at - 1 : at + 1] in END]
    assert cut_answers(prompt, max_length) == sum(end > max_length for end in ends)


def test_questions_are_drawn_by_seed_epoch_and_place(rows: EpochSamples) -> None:
    def questions(epoch: int = 0, seed: int = 0) -> list[str]:
        drawn = replace(configured(rows, seed=seed), samples=rows.samples * 5, epoch=epoch)
        together = [
            {text(p).split("user\n")[1].split("<")[0].strip() for p in row.prompts} for row in drawn
        ]
        assert all(len(found) == 1 for found in together)
        return [found.pop() for found in together]

    first = questions()
    assert set(first) == set(QUESTIONS)
    assert questions() == first
    assert questions(epoch=1) != first
    assert questions(seed=1) != first


def test_a_batch_has_a_row_and_the_pixels_of_each_photo(
    rows: EpochSamples, model: VisionLanguageModel
) -> None:
    prepared = rows.collate([rows[2], rows[0]])
    expected = model.vision.preprocessing.batch([tiny.photo(2), tiny.photo(0)])
    assert torch.equal(prepared.batch.images, expected)
    assert prepared.batch.images_per_row == (1, 1)
    ends = (prepared.batch.target_ids == tiny.tokenizer().eos_token_id).nonzero()[:, 0]
    assert prepared.batch.target_rows[ends].tolist() == [0, 0, 0, 1]
    assert (prepared.images, prepared.skipped) == (2, [])


def test_features_take_the_place_of_pixels(
    samples: list[Sample], cached: PhotoReader, rows: EpochSamples
) -> None:
    rows = replace(rows, photos=cached)
    prepared = rows.collate([rows[2], rows[0]])
    expected = [cached.features.get(samples[number].photos[0]) for number in (2, 0)]
    assert torch.equal(prepared.batch.images, torch.stack(expected))


def test_captions_that_the_model_draws_itself(rows: EpochSamples) -> None:
    rows = replace(rows, drawn={1, 2})
    prepared = rows.collate([rows[place] for place in range(4)])
    assert prepared.images == 4
    assert len(prepared.batch.images) == 2
    assert [each.references for each in prepared.drawn] == [
        ["A cat sits on 0 dogs.", "A cat sits on 1 dogs."],
        [f"A cat sits on {i} dogs." for i in range(3)],
    ]
    assert torch.equal(prepared.drawn[0].images[0], rows.photos.load(rows.samples[1].photos[0]))
    assert len(rows.collate([rows[1]]).batch.target_ids) == 0


@pytest.mark.parametrize(
    ("pack", "shape", "images"),
    [("image", 3, (1, 1, 1)), ("none", 6, (1,) * 6), ("sequence", 1, (3,))],
)
def test_packing(rows: EpochSamples, pack: str, shape: int, images: tuple[int, ...]) -> None:
    rows = configured(rows, pack=pack)
    prepared = rows.collate([rows[0], rows[1], rows[2]])
    assert len(prepared.batch.input_ids) == shape
    assert prepared.batch.images_per_row == images
    assert prepared.images == len(prepared.batch.images) == sum(images)
    # FlashAttention refuses them.
    empty = rows.collate([Skipped("line 1", "broken image")]).batch
    assert (prepared.batch.blocks is None) == (empty.blocks is None) == (pack == "none")
    assert len(empty.target_ids) == 0


def test_views_of_photos_that_are_augmented_differ_by_epoch(rows: EpochSamples) -> None:
    def pixels(epoch: int) -> list[torch.Tensor]:
        return [row.images[0] for row in replace(rows, augmented={0, 2}, epoch=epoch)]

    first, again, other = pixels(0), pixels(0), pixels(1)
    assert all(map(torch.equal, first, again))
    assert [torch.equal(*pair) for pair in zip(first, other, strict=True)] == [False, True] * 2


def test_a_photo_is_mirrored_where_its_texts_are(rows: EpochSamples, tmp_path: Path) -> None:
    picture = Image.new("RGB", (100, 100), "red")
    picture.paste("blue", (50, 0, 100, 100))
    picture.save(tmp_path / "sides.png")
    sample = Sample("line 1", (FilePhoto(tmp_path / "sides.png"),), captions("red to the left"))
    found = set()
    for epoch in range(20):
        rows = replace(rows, samples=[sample], augmented={0}, epoch=epoch)
        (written,), (pixels,) = rows[0].prompts, rows[0].images
        red, _, blue = pixels[:, 0, 0]
        found.add(("left" in text(written), bool(red > blue)))
    assert found == {(True, True), (False, False)}


@pytest.mark.parametrize("kind", ["pixels", "features"])
def test_broken_photos_are_skipped(rows: EpochSamples, cached: PhotoReader, kind: str) -> None:
    file = rows.samples[1].photos[0].path
    file.write_bytes(b"no picture")
    rows = rows if kind == "pixels" else replace(rows, photos=cached)
    prepared = rows.collate([rows[0], rows[1]])
    (skipped,) = prepared.skipped
    assert (skipped.where, skipped.reason) == ("line 1", "broken image")
    assert str(file) in skipped.detail
    assert (prepared.images, len(prepared.batch.input_ids)) == (1, 1)


@pytest.mark.parametrize("kind", ["pixels", "features"])
def test_a_batch_of_nothing_can_be_trained_on(
    rows: EpochSamples, cached: PhotoReader, model: VisionLanguageModel, kind: str
) -> None:
    rows = rows if kind == "pixels" else replace(rows, photos=cached)
    prepared = rows.collate([Skipped("line 0", "broken image")])
    assert prepared.images == 0
    assert model(prepared.batch, target_loss).item() == 0
    assert len(rows.collate([]).batch.target_ids) == 0


def test_what_is_too_long_is_skipped(rows: EpochSamples) -> None:
    assert replace(rows, max_length=tiny.PATCHES)[0].reason == "too long"
    (whole,) = rows[0].prompts
    longest = len(whole) - 3
    (shorter,) = replace(rows, max_length=longest)[0].prompts
    assert shorter.input_ids == whole.input_ids[:longest]


@pytest.mark.parametrize("pack", ["image", "none", "sequence"])
def test_an_answer_that_is_cut_is_not_taught_to_end_there(
    rows: EpochSamples, prompt: PromptBuilder, pack: str
) -> None:
    turns = [turn for n in range(3) for turn in asked(f"Who {n}?", f"A cat on {n} dogs.")]
    said = tuple(turns[:1] + [t._replace(parts=t.parts[-1:]) for t in turns[1:]])
    sample = replace(rows.samples[0], conversations=(said,), questions=())
    (whole,) = replace(rows, samples=[sample])[0].prompts
    learned = [token for token, one in zip(whole.input_ids, whole.loss_mask, strict=True) if one]
    end = tiny.tokenizer().eos_token_id
    assert learned.count(end) == 3
    for length in range(whole.loss_mask.index(True) + 1, len(whole) + 1):
        short = configured(replace(rows, samples=[sample], max_length=length), pack=pack)
        prepared = short.collate([short[0]])
        targets = prepared.batch.target_ids.tolist()
        assert targets == learned[: len(targets)]
        assert prepared.cut == 3 - targets.count(end)


@pytest.mark.parametrize("pack", ["image", "none", "sequence"])
def test_conversations_that_begin_otherwise_have_a_photo_of_their_own(
    rows: EpochSamples, model: VisionLanguageModel, pack: str
) -> None:
    """A photo behind a system message, a text or an answer: the loss is that of each alone."""
    (question, answer) = asked("Who?", "A cat.")
    brief = Message("system", ("Be brief.",))
    said = (
        (question, answer),
        (question, answer._replace(parts=("A dog.",))),
        (brief, question, answer),
        (question._replace(parts=("Who is in", 0, "?")), answer),
        (question._replace(parts=("Hi.",)), answer, question, answer),
        (question._replace(parts=("Hi.",)), answer, question, answer),
    )
    sample = replace(rows.samples[0], conversations=said, questions=())

    def loss(*conversations: Conversation) -> torch.Tensor:
        one = replace(rows, samples=[replace(sample, conversations=conversations)])
        one = configured(one, pack=pack)
        return model(one.collate([one[0]]).batch, target_loss)

    together, alone = loss(*said), sum(loss(conversation) for conversation in said)
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_every_photo_once(rows: EpochSamples, workers: int) -> None:
    batches: list[Prepared] = list(rows.loader([[3, 0, 1], [], [2]], workers))
    assert [prepared.images for prepared in batches] == [3, 0, 1]
    seen = torch.cat([prepared.batch.images for prepared in batches])
    expected = torch.stack([rows[place].images[0] for place in (3, 0, 1, 2)])
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), DataError("damaged")])
def test_workers_end_with_the_block(rows: EpochSamples, error: Exception) -> None:
    loader = rows.loader([[0], [1], [2], [3]], workers=2)

    def consume() -> None:
        with prepared_batches(loader) as batches:
            assert next(batches).images == 1
            assert len(multiprocessing.active_children()) == 2
            raise error

    with pytest.raises(type(error), match=str(error)):
        consume()
    assert multiprocessing.active_children() == []


class DamagedCache:
    """Raises what a `FeatureCache` raises."""

    def get(self, photo: FilePhoto) -> None:
        raise DataError(f"{photo.path.name}: damaged")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_is_one_line(rows: EpochSamples, workers: int) -> None:
    rows = replace(rows, photos=replace(rows.photos, features=DamagedCache()))
    with (
        pytest.raises(DataError, match=r"^0\.png: damaged$"),
        prepared_batches(rows.loader([[0], [1]], workers)) as batches,
    ):
        next(batches)


def test_the_loader_leaves_the_runs_random_numbers_alone(rows: EpochSamples) -> None:
    before = torch.get_rng_state()
    list(rows.loader([[0], [1]], 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_text_alone_needs_no_photo(rows: EpochSamples) -> None:
    (user, assistant) = asked("What is the capital of France?", "Paris.")
    sample = Sample("line 1", (), ((user._replace(parts=user.parts[1:]), assistant),))
    rows = replace(rows, samples=[sample])
    prepared = rows.collate([rows[0]])
    assert (prepared.images, prepared.batch.images_per_row) == (0, (0,))
    assert len(prepared.batch.target_ids) > 0


def test_first_prompts_are_those_of_the_first_epoch(
    samples: list[Sample], rows: EpochSamples, prompt: PromptBuilder
) -> None:
    found = list(first_prompts(samples, prompt, seed=0, max_length=512))
    assert [sample for sample, _ in found] == samples
    assert [prompts for _, prompts in found] == [row.prompts for row in rows]
    assert list(first_prompts(samples, prompt, seed=0, max_length=tiny.PATCHES)) == []


def test_generators_of_places_are_independent(rows: EpochSamples) -> None:
    random.seed(0)
    before = random.getstate()
    assert [text(p) for p in rows[1].prompts] == [text(p) for p in rows[1].prompts]
    assert random.getstate() == before

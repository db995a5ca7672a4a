"""Self-critical training: what is drawn, what it weighs, and that it raises the reward."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from tests import tiny, tiny_runs
from train import rewards as rewards_module
from train.config import TrainConfig
from train.loader import Loaded
from train.loss import target_loss
from train.resume import states
from train.rewards import DRAWS, LENGTH, SelfCritical, advantages, draw, question
from train.run import train
from vlm.data.source import DataSource
from vlm.errors import ConfigError
from vlm.messages import with_images
from vlm.model import VisionLanguageModel

CAPTIONS = ["A cat sits on the grass .", "Two dogs run on a beach ."]


@pytest.fixture
def model() -> VisionLanguageModel:
    return tiny.vision_language_model()


@pytest.fixture
def photos(model: VisionLanguageModel) -> list[Loaded]:
    """Two photos with questions of other lengths."""
    found = []
    for number, text in enumerate(["What is in the picture?", "Describe."]):
        photo = tiny.photo(number)
        (asked,) = with_images([{"role": "user", "content": text}], photo)
        answer = {"role": "assistant", "content": CAPTIONS[number]}
        prompt = model.prompt([asked, answer], answer_next=False)
        image = model.vision.preprocessing(photo)
        found.append(Loaded([prompt], [image], [CAPTIONS[number]]))
    return found


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Stage 2 on captions that the model draws itself."""
    config = tiny_runs.run_config(tmp_path, stage="instruct", cache="off", save_every=1)
    return replace(config, data=[replace(config.data[0], self_critical=True)])


def test_the_question_is_as_it_is_asked(model: VisionLanguageModel, photos: list[Loaded]) -> None:
    asked = model.prompt(with_images("Describe.", tiny.photo(1)))
    assert question(photos[1]) == asked


def test_draws_are_of_the_models_own_probabilities(
    model: VisionLanguageModel, photos: list[Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the first token is looked at.
    monkeypatch.setattr(rewards_module, "LENGTH", 2)
    torch.manual_seed(0)
    firsts = [answer[0] for _ in range(400) for answer in draw(model, photos)[1]]
    drawn = torch.bincount(torch.tensor(firsts), minlength=len(tiny.tokenizer())) / len(firsts)
    expected = model.logits(with_images("Describe.", tiny.photo(1)))[-1].softmax(dim=-1)
    # The expected distance of 2,000 draws is about sqrt(2 / (pi n)) times the sum of sqrt(p).
    assert (drawn - expected).abs().sum() < 2 * expected.sqrt().sum() * (2 / 3.14 / 2000) ** 0.5


def test_an_answer_ends_at_its_first_end(model: VisionLanguageModel, photos: list[Loaded]) -> None:
    ends = model.language.end_ids()
    with torch.no_grad():
        model.language.model.get_output_embeddings().weight[list(ends)] *= 3
    torch.manual_seed(0)
    answers = [answer for _ in range(20) for each in draw(model, photos) for answer in each]
    assert len(answers) == 20 * 2 * DRAWS
    assert not any(ends & set(answer[:-1]) for answer in answers)
    assert all(answer[-1] in ends or len(answer) == LENGTH for answer in answers)
    assert len({len(answer) for answer in answers}) > 2


def test_advantages_are_over_the_others_and_cancel_out() -> None:
    assert advantages([1.0, 2.0, 6.0]) == [-3.0, -1.5, 4.5]
    assert advantages([0.7] * 5) == pytest.approx([0] * 5)


def test_the_gradient_is_that_of_each_captions_log_probability(
    model: VisionLanguageModel, photos: list[Loaded]
) -> None:
    model.projector.requires_grad_(True)
    tokenizer = model.language.tokenizer
    torch.manual_seed(1)
    drawn = draw(model, photos)
    # People said what is drawn first, or no reward would differ from another.
    for each, answers in zip(photos, drawn, strict=True):
        each.references[:] = tokenizer.batch_decode(answers[:1], skip_special_tokens=True)
    critic = SelfCritical(model, Accelerator(cpu=True), [each.references for each in photos])
    torch.manual_seed(1)
    (batch,), rewards = critic.draw_batches([photos])

    scores = []
    for each, answers in zip(photos, drawn, strict=True):
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        scores.append(
            [
                critic.cider(text, each.references, answer[-1] in model.language.end_ids())
                for text, answer in zip(texts, answers, strict=True)
            ]
        )
    total = sum(map(sum, scores))
    worth = [advantages(of_photo) for of_photo in scores]
    size = (sum(value**2 for of_photo in worth for value in of_photo) / (2 * DRAWS)) ** 0.5
    expected = torch.zeros(())
    for each, answers, values in zip(photos, drawn, worth, strict=True):
        for answer, value in zip(answers, values, strict=True):
            expected = expected - value / size * log_probability(model, each, answer)
    assert total > 0
    assert sum(rewards) == pytest.approx(total)
    loss = model(batch, target_loss)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    parameters = list(model.projector.parameters())
    ours, theirs = (torch.autograd.grad(each, parameters) for each in (loss, expected))
    for own, other in zip(ours, theirs, strict=True):
        assert (own - other).norm() <= 1e-4 * other.norm()


def log_probability(model: VisionLanguageModel, each: Loaded, answer: list[int]) -> Tensor:
    """Of a whole answer, from the logits of its own sequence."""
    ids = torch.tensor([question(each).input_ids + answer])
    image_tokens = model.project(model.vision(each.images[0][None]))
    logits = model.language(model.embed(ids, list(image_tokens)))[0].log_softmax(dim=-1)
    first = len(question(each).input_ids) - 1
    return -F.nll_loss(logits[first:-1], torch.tensor(answer), reduction="sum")


def test_weights_go_with_their_tokens_however_many_logits_at_once(
    model: VisionLanguageModel, photos: list[Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    (batch,), _ = SelfCritical(
        model, Accelerator(cpu=True), [[caption] for caption in CAPTIONS]
    ).draw_batches([photos])
    whole = model(batch, target_loss)
    monkeypatch.setattr("train.loss.LOGITS_AT_ONCE", 7 * len(tiny.tokenizer()))
    assert model(batch, target_loss).item() == pytest.approx(whole.item(), rel=1e-5)


def test_training_raises_the_reward(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewards_module, "LENGTH", 12)
    captions = tmp_path / "data" / "same.jsonl"
    lines = [{"image": f"{number}.png", "captions": ["on on on"]} for number in range(2)]
    lines += [{"image": "2.png", "captions": ["a dog"]}]
    captions.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    data = [DataSource(str(captions), questions=["What?"], self_critical=True)]
    config = replace(config, data=data, epochs=60, save_every=1000, batch_size=3)
    train(config)
    rewards = tiny_runs.metrics(config, "reward")
    assert len(rewards) == 60
    assert sum(rewards[-10:]) > 2 * sum(rewards[:10])


def test_drawn_and_given_captions_mix(config: TrainConfig) -> None:
    given = replace(config.data[0], self_critical=False)
    config = replace(config, data=[*config.data, given], epochs=1)
    train(config)
    assert sum(tiny_runs.metrics(config, "images")) == 2 * 7
    assert len(tiny_runs.metrics(config, "loss")) == 7
    assert 0 < len(tiny_runs.metrics(config, "reward")) <= 7


def test_a_resumed_run_draws_the_same(config: TrainConfig) -> None:
    config = replace(config, keep=8)
    train(config)
    before = tiny_runs.weights(config), tiny_runs.metrics(config, "reward")
    for state in states(config.output / "state")[3:]:
        shutil.rmtree(state)
    train(replace(config, resume=True))
    assert tiny_runs.same(before[0], tiny_runs.weights(config))
    assert before[1] == tiny_runs.metrics(config, "reward")


@pytest.mark.parametrize(
    "line",
    [
        {"image": "0.png", "question": "What?", "answer": "A cat."},
        {"image": ["0.png", "1.png"], "caption": "Two cats."},
    ],
)
def test_only_captions_of_a_photo_can_be_drawn(
    config: TrainConfig, tmp_path: Path, line: dict[str, object]
) -> None:
    file = tmp_path / "data" / "lines.jsonl"
    file.write_text(json.dumps(line), encoding="utf-8")
    told = r"^self_critical needs captions of a photo: .*line 1 has none$"
    with pytest.raises(ConfigError, match=told):
        train(replace(config, data=[DataSource(str(file), self_critical=True)]))


def test_captions_that_are_all_alike_teach_nothing(
    model: VisionLanguageModel, photos: list[Loaded]
) -> None:
    critic = SelfCritical(model, Accelerator(cpu=True), [["zebra"], ["zebra"]])
    for each in photos:
        each.references[:] = ["zebra zebra zebra"]
    torch.manual_seed(1)
    (first, second), rewards = critic.draw_batches([photos[:1], photos[1:]])
    assert not any(rewards)
    assert not first.target_weights.any()
    assert not second.target_weights.any()
    assert model(first, target_loss).item() == 0

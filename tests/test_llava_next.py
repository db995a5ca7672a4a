"""LLaVA-NeXT in: the same logits as transformers' LlavaNextForConditionalGeneration."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    SiglipVisionConfig,
)

import vlm
from tests import tiny
from tests.llava_folders import edit_config
from vlm.config import LanguageConfig, LoraConfig, ModelConfig, VisionConfig
from vlm.errors import ConfigError, VLMError, WeightsError
from vlm.loading import build
from vlm.model import VisionLanguageModel
from vlm.prompt import IMAGE_SLOT, Prompt
from vlm.splice import pad

SIDE = tiny.IMAGE_SIZE
GRIDS = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]
PINPOINTS = [[rows * SIDE, columns * SIDE] for rows, columns in GRIDS]
SHAPES = [(40, 30), (30, 90), (90, 25), (64, 64), (1, 1), (4000, 1), (1, 4000), (97, 61)]
SIGLIP = SiglipVisionConfig(
    hidden_size=24,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=SIDE,
    patch_size=tiny.PATCH,
)


def make_llava_next(
    folder: Path, tower: str = "clip", layer: int | list[int] = -2
) -> LlavaNextForConditionalGeneration:
    """Writes a random LLaVA-NeXT as transformers would, and gives it."""
    tokenizer = tiny.tokenizer()
    torch.manual_seed(0)
    text_config = copy.deepcopy(tiny.language_model().model.config)
    text_config.vocab_size, text_config.eos_token_id = len(tokenizer), tokenizer.eos_token_id
    config = LlavaNextConfig(
        vision_config=tiny.clip_config() if tower == "clip" else SIGLIP,
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=layer,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        image_grid_pinpoints=PINPOINTS,
    )
    llava = LlavaNextForConditionalGeneration(config).eval()
    for parameter in llava.parameters():
        parameter.data.normal_(std=0.2)
    llava.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=PINPOINTS,
    ).save_pretrained(folder)
    return llava


def asked(*photos: tuple[int, int]) -> list[dict]:
    """A question about photos of these sizes."""
    images = [{"type": "image", "image": tiny.photo(n, size)} for n, size in enumerate(photos)]
    return [{"role": "user", "content": [*images, {"type": "text", "text": "Two dogs?"}]}]


def inputs_of(
    folder: Path, llava: LlavaNextForConditionalGeneration, prompts: list[Prompt]
) -> dict[str, Tensor]:
    """Left-padded prompts as transformers takes them, photos by its own processor."""
    ids, mask = pad([prompt.input_ids for prompt in prompts], side="left")
    images = [image for prompt in prompts for image in prompt.images]
    processor = AutoImageProcessor.from_pretrained(folder)
    return {
        "input_ids": ids.masked_fill(ids == IMAGE_SLOT, llava.config.image_token_index),
        "attention_mask": mask,
        **processor(images, return_tensors="pt"),
    }


@torch.no_grad()
def assert_same_logits(
    folder: Path,
    llava: LlavaNextForConditionalGeneration,
    model: VisionLanguageModel,
    *photos: tuple[int, int],
) -> None:
    messages = asked(*photos)
    expected = llava(**inputs_of(folder, llava, [model.prompt(messages)])).logits[0]
    torch.testing.assert_close(model.logits(messages), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("tower", "layer"), [("clip", -2), ("clip", [0, -3, -1]), ("siglip", -2), ("siglip", [1, 2])]
)
def test_import_gives_transformers_logits(tmp_path, tower, layer):
    llava = make_llava_next(tmp_path, tower, layer)
    model = vlm.load(tmp_path)
    for shape in SHAPES:
        assert_same_logits(tmp_path, llava, model, shape)
    assert_same_logits(tmp_path, llava, model, (90, 25), (4000, 1), (30, 90))


def test_import_answers_as_transformers(tmp_path):
    llava = make_llava_next(tmp_path)
    model = vlm.load(tmp_path)
    for shape in SHAPES[:4]:
        inputs = inputs_of(tmp_path, llava, [model.prompt(asked(shape))])
        ids = llava.generate(**inputs, max_new_tokens=8, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        expected = model.language.tokenizer.decode(new, skip_special_tokens=True).lstrip()
        assert expected
        assert model.chat(asked(shape), max_tokens=8) == expected


def test_own_checkpoint_of_an_import(tmp_path):
    make_llava_next(tmp_path / "llava")
    lora = LanguageConfig(lora=LoraConfig(rank=2))
    model = build(ModelConfig(llava=str(tmp_path / "llava"), language=lora), "cpu").eval()
    assert model.config.vision.tiles == GRIDS
    for name in model.trained:
        model.get_parameter(name).data.normal_(std=0.1)
    model.save(tmp_path / "own")
    again = vlm.load(tmp_path / "own")
    assert again.config == model.config
    assert again.projector.row_break.equal(model.projector.row_break)
    messages = asked((90, 25))
    torch.testing.assert_close(again.logits(messages), model.logits(messages), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"image_grid_pinpoints": [[32, 64], [50, 32]]},
            ConfigError,
            r"image_grid_pinpoints \[\[32, 64\], \[50, 32\]\] are not all multiples of the 32 px",
        ),
        ({"image_grid_pinpoints": [[3200, 3200]]}, ConfigError, "must be grids .* at most 64"),
        ({"image_grid_pinpoints": []}, ConfigError, "must be grids"),
        ({"image_grid_pinpoints": ["wide"]}, WeightsError, "cannot load"),
        ({"vision_feature_select_strategy": "full"}, ConfigError, "special tokens .* no place"),
        ({"projector_hidden_act": "silu"}, ConfigError, "activation is 'silu'"),
    ],
)
def test_what_cannot_be_imported(tmp_path, changes, error, message):
    make_llava_next(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(error, match=message):
        vlm.load(tmp_path)


def test_other_tiles_than_it_has(tmp_path):
    make_llava_next(tmp_path)
    config = ModelConfig(VisionConfig(tiles=[[1, 2]]), llava=str(tmp_path))
    with pytest.raises(VLMError, match=r"vision.tiles cannot be chosen: .* has \[\[1, 2\], \[2, 1"):
        build(config, "cpu")

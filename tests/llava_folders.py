"""LLaVA folders as transformers writes them, and what transformers gives for a conversation."""

import copy
import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests import tiny
from vlm.model import VisionLanguageModel
from vlm.prompt import IMAGE_SLOT, Prompt
from vlm.splice import pad

ONE_IMAGE = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": tiny.photo(0)},
            {"type": "text", "text": "What is in the picture?"},
        ],
    }
]
TWO_IMAGES = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Two dogs "},
            {"type": "image", "image": tiny.photo(1)},
            {"type": "text", "text": "run on "},
            {"type": "image", "image": tiny.photo(2, (25, 50))},
        ],
    }
]


def make_llava(
    folder: Path,
    layer: int | list[int] = -2,
    strategy: str = "default",
    tokenizer: PreTrainedTokenizerBase | None = None,
    template: str | None = None,
) -> LlavaForConditionalGeneration:
    """Writes a random CLIP + Llama LLaVA as transformers would, its processor with the chat
    `template` that is given, and gives it."""
    tokenizer = tokenizer or tiny.tokenizer()
    torch.manual_seed(0)
    text_config = copy.deepcopy(tiny.language_model().model.config)
    text_config.vocab_size, text_config.eos_token_id = len(tokenizer), tokenizer.eos_token_id
    config = LlavaConfig(
        vision_config=tiny.clip_config(),
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
    )
    llava = LlavaForConditionalGeneration(config).eval()
    for parameter in llava.parameters():
        parameter.data.normal_(std=0.2)
    llava.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = tiny.IMAGE_SIZE
    images = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    images.save_pretrained(folder)
    if template is not None:
        LlavaProcessor(
            images,
            tokenizer,
            patch_size=tiny.PATCH,
            vision_feature_select_strategy=strategy,
            num_additional_image_tokens=1,
            chat_template=template,
        ).save_pretrained(folder)
    return llava


def inputs_of(
    llava: LlavaForConditionalGeneration, model: VisionLanguageModel, prompts: list[Prompt]
) -> dict[str, Tensor]:
    """Left-padded prompts of ours as transformers takes them."""
    ids, mask = pad([prompt.input_ids for prompt in prompts], side="left")
    images = [image for prompt in prompts for image in prompt.images]
    return {
        "input_ids": ids.masked_fill(ids == IMAGE_SLOT, llava.config.image_token_index),
        "attention_mask": mask,
        "pixel_values": model.vision.preprocessing.batch(images),
    }


@torch.no_grad()
def reference_logits(
    llava: LlavaForConditionalGeneration, model: VisionLanguageModel, messages: list[dict]
) -> Tensor:
    """Logits (T, V) of transformers for a conversation."""
    return llava(**inputs_of(llava, model, [model.prompt(messages)])).logits[0]


def reload(folder: Path) -> LlavaForConditionalGeneration:
    """A written folder in transformers, every tensor in its place."""
    llava, loading = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    return llava.eval()


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rename_tokens(source: Path, folder: Path, **names: str) -> object:
    """The tiny tokenizer with some of its special tokens called otherwise."""
    tiny.tokenizer().save_pretrained(source)
    for file in source.iterdir():
        text = file.read_text()
        for old, new in names.items():
            text = text.replace(old, new)
        folder.mkdir(exist_ok=True)
        (folder / file.name).write_text(text)
    return AutoTokenizer.from_pretrained(folder)

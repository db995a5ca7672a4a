"""Photos, captions and weights that are made up: speed does not depend on what they say."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from settings import CAPTIONS, Setting
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from vlm.files import write_rows

QUESTION = "What is in the picture?"

WORDS = (
    "a the two three young old black white brown red blue small large man woman girl boy child dog "
    "dogs cat bird horse people crowd player team car bike street beach water snow grass field "
    "park rock mountain ball hat shirt jacket camera table is are runs running jumps jumping sits "
    "sitting stands standing plays playing holds holding looks looking walks walking rides riding "
    "wearing with through over in on at near beside behind into and while another"
)
"""What captions are made of. In the tokenizer each is one token, as in that of SmolLM2."""

LENGTH = 11.6, 3.8
"""Words of a caption, mean and standard deviation. Flickr8k's captions have 12.6 +- 4.1 tokens of
SmolLM2, the full stop among them."""


def write(setting: Setting, folder: Path) -> None:
    """Writes `captions.jsonl` with its photos, and `llava`, where both sides start from."""
    generator = random.Random(0)
    words, rows = WORDS.split(), []

    def save(number: int) -> None:
        photo(number).save(folder / f"{number}.jpg", quality=90)

    with ThreadPoolExecutor() as threads:
        list(threads.map(save, range(setting.all_photos)))
    for number in range(setting.all_photos):
        lengths = [min(max(3, round(generator.gauss(*LENGTH))), 30) for _ in range(CAPTIONS)]
        captions = [" ".join(generator.choices(words, k=length)) for length in lengths]
        rows.append({"image": f"{number}.jpg", "captions": captions})
    write_rows(folder / "captions.jsonl", rows)
    write_llava(setting, folder / "llava")


def photo(seed: int) -> Image.Image:
    """Smooth colours with some noise, each side of 224 to 375 pixels."""
    generator = np.random.default_rng(seed)
    width, height = generator.integers(224, 376, size=2).tolist()
    colours = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = smooth + generator.integers(-12, 13, smooth.shape, dtype=np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write_llava(setting: Setting, folder: Path) -> None:
    """Writes a transformers LLaVA with random weights, its tokenizer and its preprocessing."""
    words = tokenizer()
    config = LlavaConfig(
        vision_config=setting.vision,
        text_config=setting.language,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=setting.tokens,
        vision_feature_layer=-2,
        tie_word_embeddings=setting.language.tie_word_embeddings,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlavaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    side = setting.vision.image_size
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side).save_pretrained(folder)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that knows the captions' words, with ChatML's tokens and `<image>`."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<|im_start|>", "<|im_end|>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [WORDS, *WORDS.title().split(), QUESTION, "user", "assistant"]
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<image>"],
    )

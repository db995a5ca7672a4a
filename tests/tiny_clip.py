"""This project's own CLIP, tiny: a random sentence encoder in the cache, where the published one
would be, a checkpoint with random weights, photos with texts, and a run over them."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from train.config import ContrastConfig, TrainConfig
from vlm.config import ClipConfig
from vlm.data.source import DataSource
from vlm.hybrid_clip import HybridClip, save_hybrid
from vlm.minilm import WIDTH

WORDS = [
    *("[PAD]", "[UNK]", "a", "an", "and", "photo", "of", "two", "three", "cat", "dog", "on"),
    *("red", "green", "blue", "black", "left", "the"),
]

LONGEST = 16
"""Words that the sentence encoder reads."""

COLOURS = {"red": (230, 40, 30), "green": (40, 200, 60), "blue": (30, 60, 220), "black": (9, 9, 9)}

CONFIG = ClipConfig(image_size=64, width=16, depth=1, heads=2, embedding=8)


def sentence_encoder(cache: Path) -> None:
    """Puts a random one of a single layer, which tells `WORDS` apart, into the cache folder."""
    words = {word: at for at, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": LONGEST}
    folder = cache / "all-minilm-l6-v2"
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LONGEST,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)


def checkpoint(folder: Path, seed: int = 0, config: ClipConfig = CONFIG) -> Path:
    """One with random weights."""
    torch.manual_seed(seed)
    clip = HybridClip(config)
    state = clip.state_dict()
    save_hybrid(config, {name: state[name] for name in sorted(clip.trained)}, folder)
    return folder


def photo(colour: str, number: int) -> Image.Image:
    """One of a colour, darker in one half; there are eight of each."""
    image = Image.new("RGB", (80, 70), COLOURS[colour])
    shade = image.point(lambda value: value // 2)
    box = (0, 0, 40, 70) if number % 2 else (0, 0, 80, 35)
    image.paste(shade.crop(box), box[:2])
    image.putpixel((number, 0), (255, 255, 255))
    return image


def write_data(folder: Path) -> tuple[Path, Path]:
    """Captions of twelve photos, of which four are of the split `val`; boxes of four others."""
    (folder / "boxes").mkdir(parents=True)
    (folder / "captions").mkdir()
    lines = []
    for number in range(12):
        colour, name = list(COLOURS)[number % 4], f"{number}.png"
        photo(colour, number // 4).save(folder / "captions" / name)
        captions = [f"a {colour} cat on the left", f"a photo of a {colour} cat"]
        split = "val" if number >= 8 else "train"
        lines.append({"image": name, "captions": captions, "split": split})
    file = folder / "captions" / "captions.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    boxes = {"images": [], "annotations": [], "categories": []}
    for number, colour in enumerate(COLOURS):
        photo(colour, 3).save(folder / "boxes" / f"{number}.png")
        boxes["images"].append({"id": number, "file_name": f"{number}.png"})
        boxes["categories"].append({"id": number, "name": f"{colour} dog"})
        # One more of each than of the one before it.
        drawn = {"image_id": number, "category_id": number, "bbox": [0, 0, 9, 9]}
        boxes["annotations"] += [drawn] * (number + 1)
    instances = folder / "boxes" / "instances.json"
    instances.write_text(json.dumps(boxes), encoding="utf-8")
    return file, instances


def run_config(folder: Path, **fields: object) -> TrainConfig:
    """Four epochs of two steps of four photos each, measured on four with captions and four with
    boxes."""
    captions, boxes = write_data(folder / "data")
    captioned = DataSource(str(captions), split="train")
    config = TrainConfig(
        data=[captioned],
        stage="contrast",
        validation=[replace(captioned, split="val"), DataSource(str(boxes))],
        contrast=ContrastConfig(CONFIG, views=2, texts=2),
        output=folder / "run",
        cache_folder=folder / "features",
        batch_size=4,
        workers=0,
        epochs=4,
        learning_rate=3e-3,
        precision="fp32",
        save_every=1000,
        trackers=[],
    )
    return replace(config, **fields)

"""Tiny random dual encoders as folders, each with the tokenizer of its family and an image
processor."""

import io
import string
from pathlib import Path

import sentencepiece
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTokenizer,
)

from tests import tiny

SIZES = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES["num_attention_heads"] = 2
VISION = {**SIZES, "image_size": tiny.IMAGE_SIZE, "patch_size": tiny.PATCH}
SIDE = {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}


def clip_folder(folder: Path, seed: int = 0) -> Path:
    """A CLIP with byte-level BPE that has no merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    ids = {word: at for at, word in enumerate(words)}
    CLIPTokenizer(vocab=ids, merges=[]).save_pretrained(folder)
    end = ids["<|endoftext|>"]
    text = {**SIZES, "vocab_size": len(ids), "bos_token_id": end - 1, "eos_token_id": end}
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    edge = {"shortest_edge": tiny.IMAGE_SIZE}
    return saved(folder, CLIPModel(config), CLIPImageProcessorPil(size=edge, crop_size=SIDE), seed)


def siglip_folder(folder: Path) -> Path:
    """A SigLIP with SentencePiece's tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.lower() for text in tiny.TEXT),
        model_writer=pieces,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"))
    tokenizer.save_pretrained(folder)
    text = text_config(len(tokenizer))
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    return saved(folder, model, SiglipImageProcessorPil(size=SIDE))


def siglip2_folder(folder: Path) -> Path:
    """A SigLIP2 that takes patches, with BPE that has no merges."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.printable]
    tokenizer = Siglip2Tokenizer(vocab={word: at for at, word in enumerate(words)}, merges=[])
    tokenizer.save_pretrained(folder)
    vision = {**SIZES, "patch_size": tiny.PATCH, "num_patches": tiny.PATCHES}
    config = Siglip2Config(text_config=text_config(len(tokenizer)), vision_config=vision)
    processor = Siglip2ImageProcessorPil(patch_size=tiny.PATCH, max_num_patches=tiny.PATCHES)
    return saved(folder, Siglip2Model(config), processor)


def text_config(vocabulary: int) -> dict[str, int]:
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    lengths = {"vocab_size": vocabulary, "max_position_embeddings": 64, "projection_size": 24}
    return {**SIZES, **lengths, **ends}


def saved(
    folder: Path, model: PreTrainedModel, processor: BaseImageProcessor, seed: int = 0
) -> Path:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        model.logit_scale.fill_(2.0)
        if hasattr(model, "logit_bias"):
            model.logit_bias.fill_(-1.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def reference(folder: Path, model: type[PreTrainedModel], images: list, texts: list[str]) -> dict:
    """What transformers' own classes make of photos and texts."""
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts,
        padding="max_length",
        truncation=True,
        max_length=77 if model is CLIPModel else 64,
        return_tensors="pt",
    )
    inputs = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")
    with torch.inference_mode():
        return model.from_pretrained(folder)(input_ids=tokens.input_ids, **inputs)

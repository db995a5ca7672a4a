"""The tiny models as local folders, for what loads its parts by name."""

import json
from pathlib import Path

import torch
from transformers import CLIPVisionModel

from tests import tiny
from vlm.config import LanguageConfig, ModelConfig, VisionConfig


def model_config(folder: Path, **fields: object) -> ModelConfig:
    """Writes a tiny CLIP and a tiny Llama with its tokenizer; gives the config that names them.

    Args:
        folder: where they go.
        **fields: of the `ModelConfig`.
    """
    vision, language = folder / "vision", folder / "language"
    torch.manual_seed(3)
    CLIPVisionModel(tiny.clip_config()).save_pretrained(vision)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": tiny.IMAGE_SIZE},
        "crop_size": {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (vision / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    tiny.language_model().model.save_pretrained(language)
    tiny.tokenizer().save_pretrained(language)
    parts = {"vision": VisionConfig(str(vision)), "language": LanguageConfig(str(language))}
    return ModelConfig(**parts | fields)

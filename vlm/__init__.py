"""vlm: a minimal LLaVA-style vision-language model.

The way of an image: images -> preprocess -> vision -> projector -> prompt -> batch (splice) ->
model -> decode -> answer; one file each.
"""

from vlm.checkpoint import load
from vlm.config import GenerationConfig, ModelConfig
from vlm.errors import VLMError
from vlm.model import VisionLanguageModel, build

__all__ = ["GenerationConfig", "ModelConfig", "VLMError", "VisionLanguageModel", "build", "load"]

"""vlm: a minimal LLaVA-style vision-language model.

The way of an image: images -> preprocess -> vision -> projector -> prompt -> splice -> model ->
prefill -> decode -> answer; one file each.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm.config import GenerationConfig, ModelConfig
    from vlm.errors import VLMError
    from vlm.loading import build, load
    from vlm.model import VisionLanguageModel

__all__ = ["GenerationConfig", "ModelConfig", "VLMError", "VisionLanguageModel", "build", "load"]

_MODULES = {
    "GenerationConfig": "vlm.config",
    "ModelConfig": "vlm.config",
    "VLMError": "vlm.errors",
    "VisionLanguageModel": "vlm.model",
    "build": "vlm.loading",
    "load": "vlm.loading",
}


def __getattr__(name: str) -> Any:
    # At first use: torch and transformers take seconds to import, which `vlm --help` need not wait.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

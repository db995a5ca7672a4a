"""What is trained in the benchmark: shapes of real models, and how much in a step."""

from dataclasses import dataclass

from transformers import CLIPVisionConfig, LlamaConfig

from train.order import POOL

CAPTIONS = 5
"""Captions of a photo, as in Flickr8k and COCO."""


@dataclass(frozen=True)
class Setting:
    """One comparison: `photos` in a step, with `CAPTIONS` captions each, and `steps` that are timed
    behind `warm_up` that are not."""

    name: str
    vision: CLIPVisionConfig
    language: LlamaConfig
    photos: int
    steps: int
    warm_up: int

    @property
    def tokens(self) -> int:
        """Image tokens of a photo."""
        return (self.vision.image_size // self.vision.patch_size) ** 2

    @property
    def total_steps(self) -> int:
        return self.warm_up + self.steps

    @property
    def all_photos(self) -> int:
        """Photos of the epoch that the run is the beginning of: enough to be grouped by length."""
        return self.photos * max(POOL, self.total_steps)


# What is not set is transformers' default: the shape of ViT-B/32, and of Llama 7B.
VIT_B_32 = CLIPVisionConfig()
VIT_B_16 = CLIPVisionConfig(patch_size=16)
VIT_L_14 = CLIPVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
)
SMOLLM2_135M = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
VICUNA_7B = LlamaConfig(vocab_size=32064, max_position_embeddings=4096)

CPU = [
    Setting("CLIP ViT-B/32 + SmolLM2-135M", VIT_B_32, SMOLLM2_135M, photos=4, steps=4, warm_up=1),
    Setting("CLIP ViT-B/16 + SmolLM2-135M", VIT_B_16, SMOLLM2_135M, photos=2, steps=4, warm_up=1),
]
"""What a laptop trains."""

CUDA = [
    Setting("CLIP ViT-B/32 + SmolLM2-135M", VIT_B_32, SMOLLM2_135M, photos=96, steps=12, warm_up=4),
    Setting("CLIP ViT-B/16 + SmolLM2-135M", VIT_B_16, SMOLLM2_135M, photos=40, steps=12, warm_up=4),
    Setting("CLIP ViT-L/14-336 + Vicuna-7B", VIT_L_14, VICUNA_7B, photos=4, steps=12, warm_up=4),
]
"""What fills a GPU of 80 GB when it is trained the obvious way."""

TINY = Setting(
    "tiny",
    CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    ),
    LlamaConfig(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
    ),
    photos=2,
    steps=3,
    warm_up=1,
)
"""What trains in no time: for tests, and where what is around the training is timed."""

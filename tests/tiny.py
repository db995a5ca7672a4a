"""Tiny random models and a tokenizer trained on the spot: everything the tests need, in seconds and
without a download."""

import functools

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from train.batch import Batch, collate
from vlm.chat_template import ChatTemplate
from vlm.config import ModelConfig, ProjectorConfig, VisionConfig
from vlm.language import LanguageModel
from vlm.model import VisionLanguageModel
from vlm.preprocess import Preprocessing
from vlm.projector import Projector
from vlm.vision import TransformerTower, with_tiles

TEXT = [
    "You are a helpful assistant. What is in the picture? A cat sits on the grass.",
    "user assistant system USER: ASSISTANT: Describe the image. Two dogs run on a beach.",
]

IMAGE_SIZE, PATCH = 32, 8
PATCHES = (IMAGE_SIZE // PATCH) ** 2


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML's tokens, an `<image>` token and a chat template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<|im_start|>", "<|im_end|>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>"],
        chat_template=(
            "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    )


def language_model(
    seed: int = 0, hidden: int = 32, template: ChatTemplate | None = None
) -> LanguageModel:
    """A two-layer Llama with random weights, float32; with the tokenizer above if not said
    otherwise."""
    template = template or ChatTemplate(tokenizer())
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(template.tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).requires_grad_(False).eval()
    return LanguageModel(model, template)


def clip_config(layers: int = 3) -> CLIPVisionConfig:
    """A CLIP vision config with 16 patches of an image of 32 px."""
    return CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
    )


def preprocessing(size: int = IMAGE_SIZE) -> Preprocessing:
    """Squash to the tower's size."""
    return Preprocessing(size=size, resize="squash", mean=(0.5,) * 3, std=(0.5,) * 3)


def clip_tower(layers: list[int] | None = None, select: str = "default") -> TransformerTower:
    """A tiny CLIP tower with random weights."""
    torch.manual_seed(1)
    model = CLIPVisionModel(clip_config())
    return TransformerTower(model, preprocessing(), layers or [-2], select)


def vision_language_model(
    projector: ProjectorConfig | None = None,
    template: ChatTemplate | None = None,
    tiles: list[list[int]] | None = None,
    **tower: object,
) -> VisionLanguageModel:
    """A whole tiny model: CLIP, projector (an MLP if not said otherwise), Llama; eval mode."""
    config = ModelConfig(VisionConfig(tiles=tiles), projector or ProjectorConfig())
    vision = with_tiles(clip_tower(**tower), tiles)
    language = language_model(template=template)
    torch.manual_seed(2)
    built = Projector(config.projector, vision, language.width)
    return VisionLanguageModel(config, vision, built, language).eval()


def photo(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """An RGB image of random pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def training_batch(model: VisionLanguageModel) -> Batch:
    """One question about a photo and its answer, to train on."""
    image = {"type": "image", "image": photo()}
    question = [image, {"type": "text", "text": "What is in the picture?"}]
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "A cat sits on the grass."},
    ]
    prompt = model.prompt(messages, answer_next=False)
    return collate([prompt], model.vision.preprocessing.batch(prompt.images))

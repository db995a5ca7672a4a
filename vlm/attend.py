"""`vlm attend`: what a model looks at in a photo, as one picture of heat maps over it."""

import io
import math
import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.text import Text

from vlm.chat import clean, image_part, images_and_question, notice
from vlm.config import GenerationConfig
from vlm.errors import ConfigError, DataError, ImageError, PromptError, UsageError
from vlm.files import write_file
from vlm.garbage import uncollected
from vlm.messages import with_images
from vlm.settings import WORDS

if TYPE_CHECKING:
    from torch import Tensor

    from vlm.clip import DualEncoder
    from vlm.model import VisionLanguageModel
    from vlm.preprocess import Preprocessing
    from vlm.tower import VisionTower

WIDTH, LARGE, SMALL = 1200, 232, 112
"""Pixels: width of the picture, and at most that of a map of a word or of a head."""
GAP, LINE = 8, 20
"""Pixels between maps, and from one line of text to the next."""
CHARACTERS = 150
"""Most of a line of text; a caption longer than its image is cut."""


@dataclass
class AttendConfig(GenerationConfig):
    """Show what a model looks at: vlm attend PHOTO QUESTION -o map.png. The answer goes to the
    terminal. In the picture are the vision tower's attention rollout and the attention of its CLS
    token by layer and head, and where the language model looks for each word of its answer.

    Of a CLIP, SigLIP or SigLIP2, which writes no answer, it shows how similar each patch is to a
    text: vlm attend PHOTO "a dog" -o map.png --model CLIP.

    Args:
        words: one photo and the question, as `vlm chat` takes them; a text of one word ends in a
            dot.
        output: the picture, a .png file; one that is there is written over.
        model: `embedded`, or folder or hub id of a checkpoint, of a run, of a LLaVA model, or of a
            CLIP, SigLIP or SigLIP2.
        load_in: the language model's weights in 4 or 8 bits, through bitsandbytes.
        device: such as `cpu` or `cuda:1`; null is CUDA where there is one, else the CPU.
    """

    words: list[str] = field(default_factory=list, metadata=WORDS)
    output: Path = field(kw_only=True)
    model: str = "embedded"
    load_in: Literal["4bit", "8bit"] | None = None
    device: str | None = None

    def check(self) -> None:
        """Refuses what could only be told after minutes."""
        if self.output.suffix.lower() != ".png":
            raise UsageError(f"output must end in .png, not {str(self.output)!r}")
        if os.path.isdir(self.output):
            raise DataError(f"cannot write {self.output}: it is a folder")
        if not os.path.isdir(self.output.parent):
            raise DataError(f"cannot write {self.output}: there is no folder {self.output.parent}")
        if not all(map(str.strip, self.words)):
            raise PromptError("the text is empty: vlm attend PHOTO 'What is this?'")
        photos, question = images_and_question(self.words)
        if len(photos) != 1:
            raise ImageError(f"one photo is needed, not {len(photos)}: vlm attend PHOTO QUESTION")
        if question is None:
            raise PromptError("a question is needed: vlm attend PHOTO 'What is this?'")


@dataclass
class Section:
    """A part of the picture: a text, and below it images of one size, each with a caption."""

    text: str
    images: list[tuple[str, Image.Image]] = field(default_factory=list)


def attend(config: AttendConfig) -> None:
    """Draws what was looked at for the question, which is answered if the model can."""
    (source,), text = images_and_question(config.words)
    photo = image_part(source)["image"]
    sys.stdout.reconfigure(errors="replace")
    notices = Console(stderr=True)
    with notices.status(Text(f"Loading {config.model}")), uncollected():
        # Imported here because they take seconds, and a missing photo or --help should not.
        import torch

        from vlm.clip import DualEncoder, is_dual_encoder, load_clip
        from vlm.loading import device_of, load

        device = device_of(config.device)
        if is_dual_encoder(config.model):
            refuse_generation(config)
            model = load_clip(config.model, device)
        else:
            # SmolLM2 in its blocks has no attention weights to show; in transformers' parts it has.
            dtype = torch.float32 if device.type == "cpu" else None
            model = load(config.model, device, dtype, config.load_in)
    with notices.status("Looking"):
        if isinstance(model, DualEncoder):
            answer, parts = compared(model, photo, text)
            if model.too_long([text]):
                notice(notices, "the text is too long for the model, its end is not read")
        else:
            generation = {
                each.name: getattr(config, each.name) for each in fields(GenerationConfig)
            }
            answer = model.chat(text, [photo], **generation)
            parts = answered(model, photo, text, answer)
        write_file(config.output, png(parts))
    print(clean(answer))
    for part in parts:
        if not part.images:
            notice(notices, part.text)
    notice(notices, f"drawn in {config.output}")


def refuse_generation(config: AttendConfig) -> None:
    """A UsageError for settings that a dual encoder, which writes no answer, would not follow."""
    plain = AttendConfig(output=config.output)
    names = [*(each.name for each in fields(GenerationConfig)), "load_in"]
    given = [name for name in names if getattr(config, name) != getattr(plain, name)]
    if given:
        raise UsageError(
            f"{config.model!r} compares photos and texts and writes no answer: "
            f"leave out {', '.join(given)}"
        )


def answered(
    model: "VisionLanguageModel", photo: Image.Image, question: str, answer: str
) -> list[Section]:
    """The picture of an answer."""
    seen = as_seen(photo, model.vision.preprocessing)
    text = f"{question}\n{answer}\nEach map goes from dark, its least, to bright, its most."
    first = Section(text, [("what the model sees", at_width(seen, LARGE))])
    words = if_defined(word_maps, model, photo, seen, question, answer)
    return [first, *words, *if_defined(tower_maps, model.vision, photo, seen)]


def compared(clip: "DualEncoder", photo: Image.Image, text: str) -> tuple[str, list[Section]]:
    """How similar the photo is to a text, in words, and the picture of how similar each patch is,
    with the attention of a tower that has a CLS token."""
    import torch

    from vlm.clip import PretrainedDualEncoder
    from vlm.hybrid_clip import HybridClip
    from vlm.vision import TransformerTower

    seen = as_seen(photo, clip.preprocessing)
    pixel_values = clip.preprocessing.batch([photo]).to(clip.device)
    with torch.no_grad():
        words = clip.text_features([text])[0]
        whole = (clip.image_features(pixel_values)[0] @ words).item()
        patches = (clip.patch_features(pixel_values)[0] @ words).cpu()
    told = f"similarity of the whole photo: {whole:.3f}"
    images = [
        ("what the model sees", at_width(seen, LARGE)),
        (
            f"patches, {patches.min():.3f} to {patches.max():.3f}",
            heat_map(seen, patches.unflatten(0, (math.isqrt(len(patches)), -1)), LARGE),
        ),
    ]
    scale = "Similarities are cosines. Each map goes from dark, its least, to bright, its most."
    parts = [Section(f"{text}\n{told}\n{scale}", images)]
    if isinstance(clip, PretrainedDualEncoder) and clip.family == "clip":
        tower = TransformerTower(clip.model.vision_model, clip.preprocessing, [-1])
        parts += tower_maps(tower, photo, seen)
    if isinstance(clip, HybridClip):
        with torch.no_grad():
            attention = clip.image.attentions(clip.stem(pixel_values)).cpu()
        parts += sections_of(attention, 1, clip.stem.grid, seen)
    return told, parts


def as_seen(photo: Image.Image, preprocessing: "Preprocessing") -> Image.Image:
    """What the vision tower gets of a photo, which if it was squashed has its own shape again."""
    if preprocessing.resize == "squash":
        # Of a strip nothing would be seen.
        shape = min(3.0, max(1 / 3, photo.height / photo.width))
        return photo.resize((WIDTH, round(WIDTH * shape)))
    pixels = (
        preprocessing(photo).numpy().transpose(1, 2, 0) * preprocessing.std + preprocessing.mean
    )
    return Image.fromarray((255 * pixels.clip(0, 1)).round().astype("uint8"))


def if_defined(maps: Callable[..., list[Section]], *given: Any) -> list[Section]:
    """The sections of a kind of maps; of one that the model has not, the reason."""
    try:
        return maps(*given)
    except ConfigError as undefined:
        return [Section(str(undefined))]


def word_maps(
    model: "VisionLanguageModel", photo: Image.Image, seen: Image.Image, question: str, answer: str
) -> list[Section]:
    """Where the language model looks for each word of its answer."""
    from vlm.attention_maps import answer_attention, image_grid, image_maps

    grid = image_grid(model.projector, model.vision.grid)
    messages = [*with_images(question, photo), {"role": "assistant", "content": answer}]
    prompt = model.prompt(messages, answer_next=False)
    words, attention = answer_attention(model, prompt)
    if not words:
        raise ConfigError("the answer is empty: there is no word to look for")
    maps = image_maps(attention, prompt.image_slots[0], grid)
    images = [
        (f"{each.sum():.0%} {word}", heat_map(seen, each, LARGE))
        for word, each in zip(words, maps, strict=True)
    ]
    text = (
        "Language model: where it looks when it chooses each word, mean of all layers and heads, "
        "and the share of its attention that the photo has (text has the rest)"
    )
    return [Section(text, images)]


def tower_maps(tower: "VisionTower", photo: Image.Image, seen: Image.Image) -> list[Section]:
    """What the vision tower looks at: rollout, then a contact sheet of heads, a row a layer."""
    from vlm.attention_maps import tower_attention
    from vlm.hybrid_tower import HybridTower

    device = next(tower.parameters()).device
    attention = tower_attention(tower, tower.preprocessing.batch([photo]).to(device))
    special = 1 if isinstance(tower, HybridTower) else tower.family.special_tokens
    return sections_of(attention, special, tower.grid, seen)


def sections_of(
    attention: "Tensor", special: int, grid: tuple[int, int], seen: Image.Image
) -> list[Section]:
    """Attention (L, A, T, T) of a tower with so many special tokens, as `tower_maps` draws it."""
    from vlm.attention_maps import patch_maps, rollout

    who = "the CLS token" if special else "the mean patch, for there is no CLS token,"
    whole = heat_map(seen, patch_maps(rollout(attention), special, grid), LARGE)
    sections = [Section(f"Vision tower: what {who} looks at", [("attention rollout", whole)])]
    for number, heads in enumerate(patch_maps(attention, special, grid), start=1):
        width = min(SMALL, WIDTH // (len(heads) + 1) - GAP)
        images = [("mean", heat_map(seen, heads.mean(dim=0), width))]
        images += [
            (f"head {head}", heat_map(seen, each, width)) for head, each in enumerate(heads, 1)
        ]
        sections.append(Section(f"Layer {number}", images))
    return sections


def heat_map(photo: Image.Image, weights: "Tensor", width: int) -> Image.Image:
    """Weights (rows, columns) as colours over a photo, from the least to the greatest."""
    from matplotlib import colormaps

    grey = at_width(photo, width).convert("L").convert("RGB")
    weights = weights - weights.min()
    heat = Image.fromarray((weights / weights.max().clamp(min=1e-12)).numpy())
    heat = heat.resize(grey.size, Image.Resampling.BILINEAR)
    colours = colormaps["inferno"](np.asarray(heat), bytes=True)[..., :3]
    return Image.blend(grey, Image.fromarray(colours), 0.6)


def at_width(image: Image.Image, width: int) -> Image.Image:
    return image.resize((width, max(1, round(width * image.height / image.width))))


def png(sections: list[Section]) -> bytes:
    """The sections one below the other."""
    from matplotlib import get_data_path

    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", 13)

    def written(text: str, width: int) -> Image.Image:
        strip = Image.new("RGB", (width, LINE), "white")
        ImageDraw.Draw(strip).text((0, 2), clean(text), "black", font)
        return strip

    placed: list[tuple[Image.Image, int, int]] = []
    top = GAP
    for section in sections:
        for line in section.text.splitlines():
            for part in textwrap.wrap(line, CHARACTERS):
                placed.append((written(part, WIDTH), GAP, top))
                top += LINE
        left, below = GAP, top
        for caption, image in section.images:
            if left + image.width > WIDTH:
                left, top = GAP, below
            placed += [
                (image, left, top),
                (written(caption, image.width), left, top + image.height),
            ]
            left, below = left + image.width + GAP, top + image.height + LINE + GAP
        top = below + GAP
    page = Image.new("RGB", (WIDTH + GAP, top), "white")
    for image, left, upper in placed:
        page.paste(image, (left, upper))
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()

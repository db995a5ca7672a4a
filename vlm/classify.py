"""`vlm classify`: which of some labels a photo has, zero-shot, by a dual encoder."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from vlm.chat import clean, notice
from vlm.errors import ImageError, UsageError, VLMError
from vlm.files import read_text
from vlm.garbage import uncollected
from vlm.images import reference
from vlm.settings import WORDS

if TYPE_CHECKING:
    from torch import Tensor

    from vlm.clip import DualEncoder

SHOWN = 5
"""Labels of a photo that are printed; `--json` has all."""


@dataclass
class ClassifyConfig:
    """Tell which labels photos have: vlm classify IMAGE ... --labels "a cat, a dog".

    Args:
        images: photos: files, data: or http(s) URLs.
        labels: what may be in them, with commas between, or a file with one in each line.
        model: `embedded`, folder of a CLIP trained here, or folder or hub id of a CLIP, SigLIP or
            SigLIP2 checkpoint.
        template: sentence with {} for the label; may be given several times, and a label is the
            mean of all its sentences then. Without it, "a photo of {}".
        device: such as `cpu` or `cuda:1`; null is CUDA where there is one, else the CPU.
        json: print one JSON object for each photo: image, and the scores of all labels, the best
            first, or an error.
    """

    images: list[str] = field(metadata=WORDS)
    labels: str
    model: str = "embedded"
    template: list[str] = field(default_factory=lambda: ["a photo of {}"])
    device: str | None = None
    json: bool = False

    def check(self) -> None:
        """A UsageError for labels or templates that say nothing."""
        if not self.images:
            raise UsageError("no photos: vlm classify IMAGE ... --labels LABELS")
        self.asked()
        for template in self.template or [""]:
            if template.count("{}") != 1:
                raise UsageError(f"template {template!r} needs one {{}}, where the label goes")

    def asked(self) -> list[str]:
        """The labels, each once."""
        is_file = os.path.isfile(self.labels) or self.labels.endswith(".txt")
        text = read_text(Path(self.labels)) if is_file else self.labels
        parts = text.splitlines() if is_file else text.split(",")
        labels = [label for part in parts if (label := " ".join(part.split()))]
        if not labels:
            where = f"in {self.labels}, one in each line" if is_file else "such as 'a cat, a dog'"
            raise UsageError(f"no labels: give some {where}")
        seen: set[str] = set()
        for label in labels:
            # The text towers do not tell case either.
            if label.lower() in seen:
                raise UsageError(f"label {label!r} is there twice: name each once")
            seen.add(label.lower())
        return labels


def classify(config: ClassifyConfig) -> None:
    """Prints the labels of each photo; one that cannot be read is told, the others go on."""
    sys.stdout.reconfigure(errors="replace")
    labels, notices = config.asked(), Console(stderr=True)
    with notices.status(Text(f"Loading {config.model}")), uncollected():
        # Imported here because they take seconds, and wrong labels should not.
        from vlm.clip import embeddings, load_clip

        clip = load_clip(config.model, config.device)
        if len(labels) == 1 and clip.activation == "softmax":
            raise UsageError(
                f"one label, {labels[0]!r}, would always have 100%: {config.model} tells which of "
                "several is the likeliest, so give others too"
            )
        classes = class_features(clip, labels, config.template)
    texts = [text for template in config.template for text in sentences(labels, template)]
    if cut := clip.too_long(texts):
        notice(notices, f"{len(cut)} too long for the model, the end is not read: {cut[0]}")
    failed = 0
    # On a terminal the lines that come are the progress.
    hidden = sys.stdout.isatty() or not notices.is_terminal
    bar = Progress(console=notices, transient=True, redirect_stdout=False, disable=hidden)
    with bar:
        found = bar.track(embeddings(clip, config.images), len(config.images), description="Photos")
        for image, features in found:
            if isinstance(features, ImageError):
                failed += 1
                if config.json:
                    print(dumps({"image": reference(image), "error": str(features)}), flush=True)
                notice(notices, str(features), "red")
                continue
            on_device = features[None].to(clip.device)
            scores = clip.probabilities(on_device, classes)[0].tolist()
            ranked = sorted(zip(labels, scores, strict=True), key=lambda each: -each[1])
            tell(image, ranked, config.json)
    if failed:
        raise VLMError(f"{failed} of {len(config.images)} photos could not be read, see above")


def sentences(labels: Sequence[str], template: str) -> list[str]:
    return [template.replace("{}", label) for label in labels]


def class_features(
    clip: "DualEncoder", labels: Sequence[str], templates: Sequence[str]
) -> "Tensor":
    """L labels -> their embeddings (L, D), of length 1: of each the mean over the templates
    (Radford et al. 2021, section 3.1.4)."""
    total = sum(clip.text_features(sentences(labels, template)) for template in templates)
    return total / total.norm(dim=-1, keepdim=True)


def tell(image: str, ranked: list[tuple[str, float]], json: bool) -> None:
    """Prints a photo's labels, the best first."""
    if json:
        print(dumps({"image": reference(image), "scores": dict(ranked)}), flush=True)
        return
    print(clean(reference(image)))
    for label, score in ranked[:SHOWN]:
        print(f"  {score:6.1%}  {clean(label)}")
    if len(ranked) > SHOWN:
        print(f"  and {len(ranked) - SHOWN} labels below that; --json has all")
    sys.stdout.flush()

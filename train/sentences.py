"""Embeddings of texts by a frozen sentence encoder, each computed once and kept on the disk."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from train.feature_file import FeatureFile
from vlm.minilm import WHEEL, WIDTH
from vlm.sources import cache_dir

AT_ONCE = 512
"""Texts encoded and stored together."""

MAX_BYTES = 10**11
"""Of all texts ever encoded: more than a hundred million."""


def embedded(
    texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor], console: Console
) -> Tensor:
    """M texts -> embeddings (M, 384), float32 but rounded to float16, on the CPU."""
    described = {"source": WHEEL, "tokens": 1, "width": WIDTH, "dtype": "float16"}
    kept = FeatureFile(cache_dir() / "features" / WHEEL, described, MAX_BYTES)
    keys = {hashlib.sha256(text.encode()).digest(): text for text in texts}
    # Those of one length together, as the encoder has them.
    new = sorted((key for key in keys if kept.number(key) is None), key=lambda k: len(keys[k]))
    groups = [new[start : start + AT_ONCE] for start in range(0, len(new), AT_ONCE)]
    for group in track(groups, "Encoding texts", console=console, transient=True):
        encoded = encode([keys[key] for key in group]).half().cpu()
        kept.add(dict(zip(group, encoded[:, None], strict=True)), {})
    return torch.cat([kept.read(kept.number(key)) for key in keys]).float()

"""Embeddings of texts are computed once, and are those of the sentence encoder."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests import tiny_clip
from train.sentences import AT_ONCE, embedded
from vlm.minilm import MiniLM


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_CACHE", str(tmp_path))
    tiny_clip.sentence_encoder(tmp_path)


def test_each_text_is_encoded_once() -> None:
    encoder, seen = MiniLM(), []

    def encode(texts: list[str]) -> Tensor:
        seen.extend(texts)
        return encoder(texts)

    def embed(texts: list[str]) -> Tensor:
        return embedded(texts, encode, Console(quiet=True))

    texts = ["a photo of two dogs", "a cat", "a red cat on the left"]
    found = embed(texts)
    assert (found.dtype, sorted(seen)) == (torch.float32, sorted(texts))
    torch.testing.assert_close(found, encoder(texts), rtol=1e-3, atol=1e-4)
    again = embed(["a dog", *reversed(texts)])
    assert seen[3:] == ["a dog"]
    assert again[1:].equal(found.flip(0))


def test_many_texts_come_in_their_order() -> None:
    texts = [" ".join(["cat"] * (1 + number % 5) + [str(number)]) for number in range(AT_ONCE + 9)]

    def lengths(texts: list[str]) -> Tensor:
        return torch.tensor([float(len(text)) for text in texts])[:, None].expand(-1, 384)

    found = embedded(texts, lengths, Console(quiet=True))
    assert found[:, 0].tolist() == [len(text) for text in texts]

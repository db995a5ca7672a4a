"""The average of checkpoints, and checkpoints that have none."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vlm
from tests import tiny_folders
from train.average import average, average_checkpoints
from vlm.cli import main as command
from vlm.config import LanguageConfig, LoraConfig, ProjectorConfig
from vlm.errors import CheckpointError


def checkpoint(folder: Path, name: str, seed: int, **fields: object) -> str:
    """A tiny model with random trained tensors."""
    config = tiny_folders.model_config(folder / "parts", **fields)
    model = vlm.build(config, "cpu")
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    with torch.no_grad():
        for tensor in (state[each] for each in sorted(model.trained)):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    model.save(folder / name)
    return str(folder / name)


def tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def test_the_average_of_each_tensor(tmp_path: Path) -> None:
    language = LanguageConfig(str(tmp_path / "parts" / "language"), lora=LoraConfig(rank=2))
    one, other = (checkpoint(tmp_path, str(n), n, language=language) for n in range(2))
    assert command(["average", str(tmp_path / "average"), one, other, other]) == 0
    found, first, second = tensors(tmp_path / "average"), tensors(one), tensors(other)
    assert found.keys() == first.keys()
    assert any(".lora_" in name for name in found)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (first[name] + 2 * second[name]) / 3)


def test_of_itself_it_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    one = checkpoint(tmp_path, "one", 0)
    average_checkpoints(tmp_path / "average", [one, one, one])
    assert all(
        torch.equal(tensors(one)[name], t) for name, t in tensors(tmp_path / "average").items()
    )


def test_adapters_that_only_some_have_are_averaged_over_those(tmp_path: Path) -> None:
    language = LanguageConfig(str(tmp_path / "parts" / "language"), lora=LoraConfig(rank=2))
    plain = checkpoint(tmp_path, "plain", 0)
    adapted, other = (checkpoint(tmp_path, str(n), n, language=language) for n in (1, 2))
    average_checkpoints(tmp_path / "average", [plain, adapted, other])
    found, first = tensors(tmp_path / "average"), tensors(plain)
    second, third = tensors(adapted), tensors(other)
    assert found.keys() == second.keys() > first.keys()
    for name, tensor in found.items():
        each = [own[name] for own in (first, second, third) if name in own]
        assert len(each) == (2 if ".lora_" in name else 3)
        torch.testing.assert_close(tensor, sum(each) / len(each))


def test_what_only_some_have_trained_counts_as_it_came_in_the_others(tmp_path: Path) -> None:
    one, other = (checkpoint(tmp_path, str(n), n) for n in range(2))
    model = vlm.load(other, device="cpu", dtype=torch.float32)
    name, weight = next(iter(model.vision.named_parameters(prefix="vision")))
    before = weight.clone()
    weight.add_(1)
    model.trained.add(name)
    model.save(tmp_path / "tuned")
    average_checkpoints(tmp_path / "average", [one, one, str(tmp_path / "tuned")])
    found = tensors(tmp_path / "average")
    assert found.keys() == {*tensors(one), name}
    torch.testing.assert_close(found[name], before + 1 / 3)


def test_what_was_trained_with_another_dropout_has_an_average(tmp_path: Path) -> None:
    folder = str(tmp_path / "parts" / "language")
    without, dropout = (LanguageConfig(folder, lora=LoraConfig(2, dropout=p)) for p in (0.0, 0.1))
    one = checkpoint(tmp_path, "one", 0, language=without)
    other = checkpoint(tmp_path, "other", 0, language=dropout)
    average_checkpoints(tmp_path / "average", [one, other])
    found = tensors(tmp_path / "average")
    assert all(tensor.equal(found[name]) for name, tensor in tensors(one).items())


def test_it_says_where_the_average_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, output = checkpoint(tmp_path, "one", 0), tmp_path / "[average]"
    capsys.readouterr()
    assert command(["average", str(output), one, one]) == 0
    assert capsys.readouterr().err == f"vlm chat PHOTO --model {output}: talks to it\n"


def test_an_output_that_is_forgotten_costs_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, three = (checkpoint(tmp_path, str(n), n) for n in range(3))
    before = tensors(one)
    capsys.readouterr()
    assert command(["average", one, two, three]) == 1
    told = f"vlm: {one} is there already: choose another output folder, or remove it\n"
    assert capsys.readouterr().err == told
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(one).items())


def test_what_was_not_trained_here_has_no_average(tmp_path: Path) -> None:
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava" / "config.json").write_text("{}")
    one, llava = checkpoint(tmp_path, "one", 0), str(tmp_path / "llava")
    with pytest.raises(
        CheckpointError, match=r"llava is no checkpoint with trained tensors, here "
    ):
        average([one, llava])


def test_what_has_no_average(tmp_path: Path) -> None:
    one = checkpoint(tmp_path, "one", 0)
    with pytest.raises(CheckpointError, match=r"^an average needs at least two checkpoints$"):
        average([one])
    other = checkpoint(tmp_path, "other", 0, projector=ProjectorConfig(kind="linear"))
    with pytest.raises(CheckpointError, match=r"other has other parts or settings than .*one$"):
        average([one, other])
    rank = {
        n: LanguageConfig(str(tmp_path / "parts" / "language"), lora=LoraConfig(n)) for n in (2, 3)
    }
    two, three = (checkpoint(tmp_path, f"rank{n}", 0, language=rank[n]) for n in (2, 3))
    with pytest.raises(CheckpointError, match=r"rank3 has other parts or settings than .*rank2$"):
        average([one, two, three])
    model = vlm.load(one, device="cpu", dtype=torch.float32)
    model.trained |= {f"language.{name}" for name, _ in model.language.named_parameters()}
    model.save(tmp_path / "full")
    with pytest.raises(
        CheckpointError, match=r"rank2 has adapters, others a language model that was trained$"
    ):
        average([two, str(tmp_path / "full")])

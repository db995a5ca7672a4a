"""Language models: loading, quantised or not, and their adapters."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, LlamaForCausalLM

from tests import tiny
from vlm.config import LanguageConfig, LoraConfig
from vlm.errors import ConfigError, WeightsError
from vlm.language import LanguageModel, load_language

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama, its widths multiples of bitsandbytes' block of 64, with its tokenizer."""
    path = tmp_path_factory.mktemp("llama")
    language = tiny.language_model(hidden=64)
    language.model.save_pretrained(path)
    language.tokenizer.save_pretrained(path)
    return path


def load(folder: Path, **options: object) -> LanguageModel:
    return load_language(LanguageConfig(str(folder), **options), CPU, torch.float32)


def embeddings(language: LanguageModel) -> Tensor:
    return language.embed(torch.tensor([[5, 6, 7, 8], [40, 41, 42, 43]])).detach()


def trainable(language: LanguageModel) -> dict[str, Tensor]:
    return {name: p for name, p in language.named_parameters() if p.requires_grad}


def test_loads_from_a_folder_frozen(folder: Path) -> None:
    language, original = load(folder), tiny.language_model(hidden=64)
    inputs = embeddings(original)
    assert torch.equal(language(inputs), original(inputs))
    assert language.tokenizer.get_vocab() == original.tokenizer.get_vocab()
    assert not trainable(language)
    assert not language.model.training
    assert (language.width, language.dtype, language.device) == (64, torch.float32, CPU)


@pytest.mark.parametrize("source", ["./no/such/folder", "./no/such.gguf"])
def test_a_source_that_is_not_there(source: str) -> None:
    with pytest.raises(WeightsError) as raised:
        load(Path(source))
    assert str(raised.value).endswith(
        "no such file or folder, nor a hub id (`name` or `owner/name`)"
    )


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"^cannot load '.*': .*config.json.* \(check the folder\)$"
    ):
        load(tmp_path)


def test_embedding_rms() -> None:
    language = tiny.language_model()
    table = language.model.get_input_embeddings().weight
    expected = (table.double() ** 2).mean().sqrt().item()
    assert language.embedding_rms() == pytest.approx(expected)


def test_end_ids_are_the_models_and_the_tokenizers() -> None:
    language = tiny.language_model()
    language.model.generation_config.eos_token_id = None
    assert language.end_ids() == {2}
    language.model.generation_config.eos_token_id = 7
    assert language.end_ids() == {2, 7}
    language.model.generation_config.eos_token_id = [7, 9]
    assert language.end_ids() == {2, 7, 9}


def test_logits_only_where_asked() -> None:
    language = tiny.language_model()
    inputs = embeddings(language)
    at = language(inputs, logits_to_keep=2)
    assert torch.allclose(at, language(inputs)[:, -2:], atol=1e-6)


def test_the_cache_goes_under_the_name_that_the_model_takes() -> None:
    class Renamed(LlamaForCausalLM):
        def forward(self, cache: Cache | None = None, **inputs: object) -> object:
            return super().forward(**{plain.cache_name: cache}, **inputs)

    plain = tiny.language_model()
    renamed = tiny.language_model()
    renamed.model = Renamed(plain.model.config).eval()
    renamed.model.load_state_dict(plain.model.state_dict())
    assert renamed.cache_name == "cache"
    whole = embeddings(plain)
    for language in (plain, renamed):
        cache = DynamicCache(config=language.model.config)
        language(whole[:, :-1], cache=cache)
        at_end = language(whole[:, -1:], cache=cache)
        torch.testing.assert_close(at_end, plain(whole)[:, -1:], rtol=0, atol=1e-5)


def test_lora_trains_adapters_only_and_changes_nothing_at_step_0(folder: Path) -> None:
    language = load(folder, lora=LoraConfig(rank=4))
    assert all(".lora_" in name for name in trainable(language))
    # Seven linear layers in each of two blocks, none on the head.
    assert len(trainable(language)) == 2 * 7 * 2
    inputs = embeddings(language)
    assert torch.equal(language(inputs), load(folder)(inputs))
    language(inputs).logsumexp(dim=-1).sum().backward()
    assert all(
        p.grad.abs().sum() > 0 for name, p in trainable(language).items() if "lora_B" in name
    )


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoraConfig(targets=["q_porj"]), "q_porj"),
        (LoraConfig(targets="q_proj("), "unterminated subpattern"),
        (LoraConfig(rank=0), "should be a positive integer"),
    ],
)
def test_adapters_that_do_not_fit(lora: LoraConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^language\.lora: .*{message}"):
        tiny.language_model().add_lora(lora)


@pytest.mark.parametrize(("load_in", "bound"), [("4bit", 0.5), ("8bit", 0.05)])
def test_quantised_weights(folder: Path, load_in: str, bound: float) -> None:
    pytest.importorskip("bitsandbytes")
    language, whole = load(folder, load_in=load_in), load(folder)
    inputs = embeddings(whole)
    expected = whole(inputs)
    error = (language(inputs) - expected).norm() / expected.norm()
    assert 0 < error < bound
    assert not trainable(language)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
@pytest.mark.parametrize("tied", [False, True])
def test_merged_adapters_change_nothing_but_the_speed(targets: str | list[str], tied: bool) -> None:
    language = tiny.language_model()
    if tied:
        language.model.lm_head.weight = language.model.get_input_embeddings().weight
    language.add_lora(LoraConfig(rank=2, targets=targets))
    for name, parameter in language.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    inputs, before = embeddings(language), language.state_dict()
    adapters = {name: tensor.clone() for name, tensor in before.items() if ".lora_" in name}
    expected = language(inputs)
    language.merge_adapters()
    torch.testing.assert_close(language(inputs), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(embeddings(language), inputs)
    assert all(torch.equal(language.state_dict()[name], adapters[name]) for name in adapters)
    merged = {module.merged for module in language.modules() if hasattr(module, "merged")}
    assert merged == ({True, False} if tied and "lm_head" in targets else {True})


def gradients(language: LanguageModel, checkpointed: bool) -> tuple[dict[str, Tensor], int]:
    """Gradients of the inputs and of what trains, and how often the first layer ran."""
    runs = []
    layer = language.model.model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: runs.append(1))
    if checkpointed:
        language.checkpoint_gradients()
    text = language.train().embed(torch.tensor([[5, 6, 7, 8, 9]]))
    assert text.requires_grad == language.model.get_input_embeddings().weight.requires_grad
    image = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    language(torch.cat([image, text], dim=1)).logsumexp(dim=-1).sum().backward()
    found = {name: parameter.grad for name, parameter in trainable(language).items()}
    return found | {"image": image.grad}, len(runs)


@pytest.mark.parametrize("trains", ["projector alone", "lora", "full"])
def test_checkpointed_gradients_are_the_same(trains: str) -> None:
    found = []
    for checkpointed in (False, True):
        language = tiny.language_model()
        if trains == "lora":
            torch.manual_seed(0)
            language.add_lora(LoraConfig(rank=2))
            for name, parameter in language.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter)
        if trains == "full":
            language.requires_grad_()
        found.append(gradients(language, checkpointed))
    (plain, once), (checkpointed, twice) = found
    assert (once, twice) == (1, 2)
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_a_model_that_cannot_checkpoint_gradients() -> None:
    language = tiny.language_model()
    language.model.supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match=r"^gradient_checkpointing: Llama\S+ does not sup"):
        language.checkpoint_gradients()

"""`Llama` on weights in blocks gives the logits of transformers' class on dequantised ones."""

import math
from ctypes import CDLL
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize
from torch import Tensor
from torch.nn.functional import linear
from transformers import LlamaConfig, LlamaForCausalLM

from tests import tiny
from vlm.blocks import GROUP, Q4_1, Q8_0, BlockLinear, Matrix, grouped, library, rows_of
from vlm.chat_template import ChatTemplate
from vlm.config import GenerationConfig, LoraConfig
from vlm.decode import Answer, Decoding
from vlm.language import LanguageModel
from vlm.llama import Llama
from vlm.llama_blocks import LORA, PARTS, read_blocks, side_by_side, write_blocks
from vlm.prefill import prefill
from vlm.splice import pad

HEAD = 32


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> CDLL:
    found = library(tmp_path_factory.mktemp("code"))
    if found is None:
        pytest.skip("no C compiler")
    return found


def packed(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """A weight in blocks, and what they stand for."""
    blocks = quantize(weight.numpy(), GGMLQuantizationType[kind])
    return torch.from_numpy(blocks), torch.from_numpy(
        dequantize(blocks, GGMLQuantizationType[kind])
    )


def write_gguf(file: Path, config: LlamaConfig) -> LlamaForCausalLM:
    """A GGUF of random weights, and transformers' model of them."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    writer = GGUFWriter(str(file), "llama")

    def write(name: str, weight: Tensor, kind: str) -> None:
        turned = "attn_q" in name or "attn_k" in name
        rows = side_by_side(weight, HEAD) if turned else weight
        blocks, meant = packed(rows, kind)
        writer.add_tensor(name, blocks.numpy(), raw_dtype=GGMLQuantizationType[kind])
        if turned:
            meant = meant.unflatten(0, (-1, HEAD // 2, 2)).transpose(1, 2).flatten(0, 2)
        weight.copy_(meant)

    write("token_embd.weight", model.model.embed_tokens.weight, "Q8_0")
    norms = {"output_norm": model.model.norm}
    for number, layer in enumerate(model.model.layers):
        norms[f"blk.{number}.attn_norm"] = layer.input_layernorm
        norms[f"blk.{number}.ffn_norm"] = layer.post_attention_layernorm
        for name, part in PARTS.items():
            write(f"blk.{number}.{name}.weight", layer.get_submodule(part).weight, "Q4_1")
    for name, norm in norms.items():
        norm.weight.add_(torch.randn_like(norm.weight) * 0.3)
        writer.add_tensor(f"{name}.weight", norm.weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def both(
    code: CDLL, folder: Path, kv_heads: int = 2, rank: int = 4
) -> tuple[LanguageModel, Llama, dict[str, Tensor]]:
    """A model with adapters in transformers' form and as a `Llama`, and the adapters."""
    config = LlamaConfig(
        vocab_size=math.ceil(len(tiny.tokenizer()) / GROUP) * GROUP,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=HEAD,
        initializer_range=0.2,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        eos_token_id=2,
    )
    language = LanguageModel(
        write_gguf(folder / "model.gguf", config), ChatTemplate(tiny.tokenizer())
    )
    lora = LoraConfig(rank=rank, alpha=6.0)
    language.add_lora(lora)
    torch.manual_seed(1)
    adapters = {}
    for name, weight in language.named_parameters():
        if ".lora_" in name:
            adapters[f"language.{name}"] = weight.data.normal_(std=0.2).clone()
    language.merge_adapters()
    write_blocks(folder / "model.gguf", config, folder / "blocks")
    llama = read_blocks(folder / "blocks", code, language.template, adapters, lora)
    return language, llama, adapters


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("rank", [4, 16])
def test_gives_the_logits_of_transformers(
    code: CDLL, tmp_path: Path, kv_heads: int, rank: int
) -> None:
    language, llama, _ = both(code, tmp_path, kv_heads, rank)
    ids = torch.randint(0, 300, (3, 9))
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, :4] = mask[2, :8] = 0
    with torch.inference_mode():
        embeddings = llama.embed(ids)
        assert torch.equal(embeddings, language.embed(ids))
        expected = language(embeddings, mask)
        assert_alike(llama(embeddings, mask)[mask.bool()], expected[mask.bool()])
        # In parts, the last of one token, as decoding goes.
        cache, parts = llama.new_cache(), []
        for start, end in ((0, 4), (4, 8), (8, 9)):
            part = embeddings[:, start:end], mask[:, :end]
            parts.append(llama(*part, cache))
        assert_alike(torch.cat(parts, dim=1)[mask.bool()], expected[mask.bool()])


def test_single_tokens_are_as_many_at_once(code: CDLL, tmp_path: Path) -> None:
    language, llama, _ = both(code, tmp_path)
    embeddings = llama.embed(torch.randint(0, 300, (1, 300)))
    with torch.inference_mode():
        expected = language(embeddings)
        cache = llama.new_cache()
        parts = [llama(embeddings[:, :5], cache=cache)]
        # Beyond where the buffer grows, and several threads attend.
        parts += [llama(embeddings[:, at : at + 1], cache=cache) for at in range(5, 300)]
        assert_alike(torch.cat(parts, dim=1), expected)


def test_long_rows_go_through_in_parts(code: CDLL, tmp_path: Path) -> None:
    language, llama, _ = both(code, tmp_path)
    embeddings = llama.embed(torch.randint(0, 300, (3, 200)))
    mask = torch.ones(3, 200, dtype=torch.long)
    mask[0, :150] = mask[2, :71] = 0
    with torch.inference_mode():
        expected = language(embeddings, mask)
        assert_alike(llama(embeddings, mask)[mask.bool()], expected[mask.bool()])


def test_what_is_no_number_stays_that(code: CDLL, tmp_path: Path) -> None:
    _, llama, _ = both(code, tmp_path)
    for damage in (torch.nan, torch.inf):
        embeddings = llama.embed(torch.tensor([[5, 6, 7]]))
        embeddings[0, 1, 3] = damage
        with torch.inference_mode():
            assert llama(embeddings)[0, 1:].isnan().all()


def test_rows_are_chosen_and_some_end_before_others(code: CDLL, tmp_path: Path) -> None:
    rows, chosen = [[5, 6, 7, 8, 9], [40, 41], [100, 7, 120], [8]], [3, 0, 0, 1, 2]
    ids, mask = pad(rows, side="left")
    for settings in ({"max_tokens": 12}, {"max_tokens": 12, "temperature": 1.0, "seed": 3}):
        found = []
        for each in both(code, tmp_path)[:2]:
            decoding = Decoding(each, set(range(0, 320, 6)))
            answers = [Answer(each, rows[row], GenerationConfig(**settings)) for row in chosen]
            start = prefill(each, each.embed(ids), mask)
            decoding.join(start.select(torch.tensor(chosen)), answers)
            while decoding.running:
                decoding.step()
            found.append([answer.seen.tolist() for answer in answers])
        assert found[0] == found[1]
        assert found[0][1] == found[0][2]
        assert len(set(map(len, found[0]))) > 2


def test_takes_no_adapters_but_those_of_all_matrices(code: CDLL, tmp_path: Path) -> None:
    language, _, adapters = both(code, tmp_path)
    lora = LoraConfig(rank=4, alpha=6.0)
    name = LORA.format(1, "mlp.up_proj", "B")
    for wrong in (
        {},
        {key: value for key, value in adapters.items() if key != name},
        adapters | {"language.model.lm_head.weight": torch.zeros(1)},
        adapters | {name: adapters[name][:-1]},
    ):
        assert read_blocks(tmp_path / "blocks", code, language.template, wrong, lora) is None


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 700])
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
@pytest.mark.parametrize("rank", [None, 16, 48])
def test_blocks_multiply_as_dequantised(code: CDLL, rows: int, kind: str, rank: int | None) -> None:
    torch.manual_seed(0)
    matrices, weights = [], []
    size = {"Q4_1": Q4_1, "Q8_0": Q8_0}[kind]
    for outputs in (96, 32):
        blocks, weight = packed(torch.randn(outputs, 96), kind)
        adapter = () if rank is None else (torch.randn(96, rank), torch.randn(rank, outputs))
        matrices.append(Matrix(grouped(blocks, size), size, *adapter))
        weights.append(weight if rank is None else weight + (adapter[0] @ adapter[1]).T)
    vectors = torch.randn(rows, 96)
    expected = linear(vectors, torch.cat(weights))
    assert_alike(BlockLinear(code, *matrices)(vectors), expected, within=2e-4)


def test_blocks_are_looked_up_as_dequantised() -> None:
    blocks, weight = packed(torch.randn(96, 64), "Q8_0")
    ids = torch.tensor([[4, 0], [70, 70], [33, 95]])
    assert torch.equal(rows_of(grouped(blocks, Q8_0), ids), weight[ids])


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_without_a_compiler_there_are_no_blocks(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    assert library(tmp_path / compiler) is None
    assert not list(tmp_path.glob("*/*"))


def assert_alike(found: Tensor, expected: Tensor, within: float = 1e-2) -> None:
    """Rows (..., V) are the same but for what rounding to 16 bits changes: it is little in one
    product, and the sharp attention of random weights makes more of it."""
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.max() < within

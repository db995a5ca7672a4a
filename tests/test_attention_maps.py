"""Attention maps: transformers' own weights, brought to the grid of the photo and to words."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import Lfm2Config, Lfm2ForCausalLM, MambaConfig, MambaForCausalLM

from tests import tiny
from tests.test_vision import FAMILIES, model_of, pixels, tower_of
from vlm.attention_maps import (
    answer_attention,
    attentions,
    image_grid,
    image_maps,
    patch_maps,
    rollout,
    tower_attention,
    words_of,
)
from vlm.config import ProjectorConfig, VisionConfig
from vlm.efficientnet import EfficientNetTower
from vlm.errors import ConfigError
from vlm.prompt import Prompt

GLOBAL = [name for name in FAMILIES if not name.startswith("swin")]
"""Families in which every token looks at every one."""
ANSWER = "Two dogs run on a beach."


def random_attention(layers: int = 3, heads: int = 2, tokens: int = 17) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(layers, heads, tokens, tokens, generator=generator).softmax(dim=-1)


def answered(model: tiny.VisionLanguageModel, answer: str = ANSWER) -> Prompt:
    image = {"type": "image", "image": tiny.photo()}
    question = {"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]}
    messages = [question, {"role": "assistant", "content": answer}]
    return model.prompt(messages, answer_next=False)


@pytest.mark.parametrize("name", GLOBAL)
def test_rows_sum_to_one_and_maps_have_the_shape_of_the_grid(name: str) -> None:
    tower, special = tower_of(name, [-2], size=48), FAMILIES[name][1]
    attention = tower_attention(tower, pixels(48)[:1])
    tokens = 36 + special
    assert attention.shape == (3, 2, tokens, tokens)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(3, 2, tokens))
    assert patch_maps(attention, special, tower.grid).shape == (3, 2, 6, 6)
    assert patch_maps(rollout(attention), special, tower.grid).shape == (6, 6)


@pytest.mark.parametrize("name", [name for name in GLOBAL if name != "siglip2"])
def test_the_towers_attention_is_transformers(name: str) -> None:
    model = model_of(name)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(pixel_values=pixels()[:1], output_attentions=True).attentions
    found = tower_attention(tower_of(name, [-2]), pixels()[:1])
    torch.testing.assert_close(found, torch.cat(expected[:-1]))


def test_bfloat16_gives_float32() -> None:
    attention = tower_attention(tower_of("clip", [-2]).to(torch.bfloat16), pixels()[:1])
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(3, 2, 17), atol=0.02, rtol=0)


def test_a_tower_is_left_as_it_was() -> None:
    tower = tiny.clip_tower()
    before, implementation = tower(pixels()), tower.model.config._attn_implementation
    tower_attention(tower, pixels()[:1])
    assert tower.model.config._attn_implementation == implementation != "eager"
    assert not tower.model._forward_pre_hooks
    assert not tower.model._forward_hooks
    assert torch.equal(tower(pixels()), before)


def test_rollout_is_a_plain_product_of_matrices() -> None:
    attention = random_attention()
    expected = torch.eye(17)
    for layer in attention:
        mean = sum(layer) / len(layer)
        expected = (0.5 * mean + 0.5 * torch.eye(17)) @ expected
    found = rollout(attention)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(17))


@pytest.mark.parametrize("special", [1, 2, 5])
def test_a_map_is_what_the_cls_token_looks_at(special: int) -> None:
    attention = torch.zeros(1, 1, special + 6, special + 6)
    # The fourth patch, on a grid of two rows and three columns.
    attention[0, 0, 0, special + 3] = 1
    assert patch_maps(attention, special, (2, 3)).nonzero().tolist() == [[0, 0, 1, 0]]


def test_without_a_cls_token_a_map_is_what_patches_look_at_in_the_mean() -> None:
    attention = random_attention(tokens=6)
    maps = patch_maps(attention, 0, (2, 3))
    torch.testing.assert_close(maps.flatten(2), attention.mean(dim=2))
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(3, 2))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("swin", "swin looks through shifted windows and has no CLS token: CLS attention and"),
        ("efficientnet", "the vision tower is a convolutional network: it has no attention"),
    ],
)
def test_towers_that_have_no_such_attention_are_refused(name: str, told: str) -> None:
    tower = tower_of(name, [-1]) if name == "swin" else EfficientNetTower(VisionConfig())
    with pytest.raises(ConfigError, match=f"^{told}"):
        tower_attention(tower, pixels()[:1])


def test_the_attention_of_words_is_transformers() -> None:
    model = tiny.vision_language_model()
    prompt = answered(model)
    words, attention = answer_attention(model, prompt)
    assert words == ANSWER.split()
    assert attention.shape == (6, len(prompt))
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(6))

    language = model.language.model
    language.set_attn_implementation("eager")
    image_tokens = model.project(model.encode_images(prompt.images))
    with torch.no_grad():
        embeddings = model.embed(torch.tensor([prompt.input_ids]), list(image_tokens))
        whole = language(inputs_embeds=embeddings, output_attentions=True).attentions
    mean = torch.cat(whole).mean(dim=(0, 1))
    # Where each word begins, told by the tokenizer of the words up to it.
    start = prompt.loss_mask.index(True)
    ends = [
        start + len(tiny.tokenizer().encode(" ".join(words[:count]), add_special_tokens=False))
        for count in range(7)
    ]
    for number in range(6):
        expected = mean[ends[number] - 1 : ends[number + 1] - 1].mean(dim=0)
        torch.testing.assert_close(attention[number], expected)


def test_what_comes_behind_a_word_is_not_looked_at() -> None:
    model = tiny.vision_language_model()
    prompt = answered(model)
    _, attention = answer_attention(model, prompt)
    start = prompt.loss_mask.index(True)
    assert attention[0, start - 1] > 0
    assert attention[0, start + len(tiny.tokenizer().encode("Two")) - 1 :].sum() == 0


def test_an_answer_without_words() -> None:
    model = tiny.vision_language_model()
    prompt = answered(model, "")
    words, attention = answer_attention(model, prompt)
    assert (words, attention.shape) == ([], (0, len(prompt)))


@pytest.mark.parametrize("text", [ANSWER, "  A  cat \n", "猫 naïve 🐈🐈 x", "\n", "", "."])
def test_words_are_what_stands_between_spaces(text: str) -> None:
    ids = tiny.tokenizer().encode(text, add_special_tokens=False)
    words = words_of(ids, tiny.tokenizer())
    assert [word for word, _ in words] == text.split()
    for word, tokens in words:
        assert tiny.tokenizer().decode(ids[tokens]).strip() == word


@given(st.text())
def test_every_token_belongs_to_one_word(text: str) -> None:
    ids = tiny.tokenizer().encode(text, add_special_tokens=False)
    words = words_of(ids, tiny.tokenizer())
    assert [at for _, tokens in words for at in range(len(ids))[tokens]] == (
        list(range(len(ids))) if words else []
    )
    assert all(tokens.stop > tokens.start for _, tokens in words)


@pytest.mark.parametrize(
    ("settings", "grid"),
    [({}, (4, 4)), ({"kind": "linear"}, (4, 4)), ({"reduce": "shuffle"}, (2, 2))],
)
@pytest.mark.parametrize("select", ["default", "full"])
def test_image_tokens_lie_on_a_grid(
    settings: dict[str, str], grid: tuple[int, int], select: str
) -> None:
    if settings.get("reduce") and select == "full":
        pytest.skip("no such model")
    model = tiny.vision_language_model(ProjectorConfig(**settings), select=select)
    prompt = answered(model)
    (slots,) = prompt.image_slots
    _, attention = answer_attention(model, prompt)
    assert image_grid(model.projector, model.vision.grid) == grid
    maps = image_maps(attention, slots, grid)
    assert maps.shape == (6, *grid)
    # The last token is that of the last patch, with and without CLS in front.
    assert torch.equal(maps[:, -1, -1], attention[:, slots[-1]])
    assert torch.equal(maps[:, 0, 0], attention[:, slots[1 if select == "full" else 0]])


def test_a_resamplers_tokens_lie_nowhere() -> None:
    model = tiny.vision_language_model(ProjectorConfig(kind="resampler", queries=4))
    with pytest.raises(ConfigError, match=r"^the projector is a resampler: its image tokens are"):
        image_grid(model.projector, model.vision.grid)


def test_a_language_model_without_attention() -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1))
    told = r"^mamba gives no attention weights$"
    with pytest.raises(ConfigError, match=told), attentions(mamba):
        mamba(torch.tensor([[1, 2]]))


def test_of_a_hybrid_the_layers_with_attention() -> None:
    config = Lfm2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["full_attention", "conv"] * 2,
        num_hidden_layers=4,
    )
    model = Lfm2ForCausalLM(config).eval()
    with attentions(model) as passes, torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    assert passes[0].shape == (2, 4, 3, 3)

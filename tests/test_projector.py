"""Projector: shapes, token reduction worked by hand, and the published modules it equals."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from vlm.config import ProjectorConfig
from vlm.errors import ConfigError
from vlm.projector import MLP, CrossAttentionBlock, Projector, TokenReduction, sine_positions
from vlm.tower import VisionTower

KINDS = ("linear", "mlp", "resampler")
WIDTH, OUT, GRID = 6, 16, (4, 4)


class Tower(VisionTower):
    width, grid, num_tokens = WIDTH, GRID, 16

    def grid_at(self, size: int) -> tuple[int, int]:
        return size // 8, size // 8

    def last_layers(self, count: int | str) -> list[nn.Module]:
        return []


def projector(num_tokens: int = 16, out: int = OUT, **config: object) -> Projector:
    torch.manual_seed(0)
    tower = Tower()
    tower.num_tokens = num_tokens
    return Projector(ProjectorConfig(queries=5, **config), tower, out)


def patch_tokens(batch: int = 2) -> Tensor:
    return torch.randn(batch, 16, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduce", ["none", "shuffle", "pool"])
@pytest.mark.parametrize("input_norm", [False, True])
def test_shapes(kind: str, reduce: str, input_norm: bool) -> None:
    built = projector(kind=kind, reduce=reduce, input_norm=input_norm)
    tokens = 5 if kind == "resampler" else 16 if reduce == "none" else 4
    assert built.num_tokens == tokens
    assert built(patch_tokens()).shape == (2, tokens, OUT)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_see_the_others_of_its_batch(kind: str) -> None:
    built, tokens = projector(kind=kind), patch_tokens()
    torch.testing.assert_close(built(tokens)[1:], built(tokens[1:]))


@pytest.mark.parametrize("kind", KINDS)
def test_trains(kind: str) -> None:
    built = projector(kind=kind)
    tokens = patch_tokens(batch=4)
    target = torch.randn(4, built.num_tokens, OUT, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(built.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(built(tokens), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in built.parameters())


def test_shuffle_by_hand() -> None:
    # Token n carries (n, n + 100):
    #    0  1 |  2  3
    #    4  5 |  6  7
    #   ------+------
    #    8  9 | 10 11
    #   12 13 | 14 15
    tokens = torch.arange(16.0)[None, :, None] + torch.tensor([0.0, 100.0])
    shuffled = TokenReduction("shuffle", 2)(tokens)
    assert shuffled[0].tolist() == [
        [0, 100, 1, 101, 4, 104, 5, 105],
        [2, 102, 3, 103, 6, 106, 7, 107],
        [8, 108, 9, 109, 12, 112, 13, 113],
        [10, 110, 11, 111, 14, 114, 15, 115],
    ]


def test_pool_is_avg_pool2d() -> None:
    tokens = torch.randn(2, 6 * 6, 5)
    pooled = TokenReduction("pool", 2)(tokens)
    image = tokens.transpose(1, 2).unflatten(2, (6, 6))
    torch.testing.assert_close(pooled, F.avg_pool2d(image, 2).flatten(2).transpose(1, 2))


def test_mlp_is_llavas() -> None:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=WIDTH, num_attention_heads=2),
        text_config=LlamaConfig(hidden_size=OUT, num_attention_heads=2),
        vision_feature_layer=-2,
        projector_hidden_act="gelu",
    )
    llava = LlavaMultiModalProjector(config)
    ours = MLP(WIDTH, OUT, OUT)
    ours.load_state_dict(llava.state_dict())
    torch.testing.assert_close(ours(patch_tokens()), llava(patch_tokens()), rtol=0, atol=1e-7)


def test_cross_attention_is_torchs() -> None:
    torch.manual_seed(0)
    block = CrossAttentionBlock(OUT, heads=4)
    nn.init.zeros_(block.feed_forward[2].weight)
    nn.init.zeros_(block.feed_forward[2].bias)
    attention = nn.MultiheadAttention(OUT, 4, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([block.query.weight, block.key_value.weight]))
        attention.in_proj_bias.copy_(torch.cat([block.query.bias, block.key_value.bias]))
        attention.out_proj.load_state_dict(block.out.state_dict())
    queries, patches = torch.randn(2, 3, OUT), torch.randn(2, 16, OUT)
    seen, _ = attention(block.norm_queries(queries), patches, patches)
    torch.testing.assert_close(block(queries, patches, torch.zeros(16, OUT)), queries + seen)


def test_a_resampler_sees_where_a_patch_is_by_its_position_alone() -> None:
    built = projector(kind="resampler")
    tokens = patch_tokens()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    expected = built(tokens)
    assert (built(tokens[:, order]) - expected).abs().max() > 1e-3
    built.projection.positions = built.projection.positions[order]
    torch.testing.assert_close(built(tokens[:, order]), expected)


def test_sine_positions() -> None:
    positions = sine_positions((3, 5), 16)
    assert positions.shape == (15, 16)
    assert positions[0].tolist() == ([0.0] * 4 + [1.0] * 4) * 2
    for one, other in itertools.combinations(positions, 2):
        assert (one - other).abs().max() > 0.1
    # Row 2, column 1: the row is in the first half, the column in the second.
    assert torch.equal(positions[2 * 5 + 1, :8], positions[2 * 5 + 4, :8])
    assert torch.equal(positions[2 * 5 + 1, 8:], positions[0 * 5 + 1, 8:])
    torch.testing.assert_close(positions[11, :1], torch.tensor([2.0]).sin())
    torch.testing.assert_close(positions[11, 9:10], torch.tensor([0.1]).sin())


@pytest.mark.parametrize("kind", KINDS)
def test_match_scale(kind: str) -> None:
    built = projector(kind=kind)
    before = built(patch_tokens())
    built.match_scale(patch_tokens(), rms=0.13)
    after = built(patch_tokens())
    assert after.square().mean().sqrt().item() == pytest.approx(0.13, rel=0.01)
    torch.testing.assert_close(after / after.norm(), before / before.norm())


def test_full_goes_through_linear_and_mlp() -> None:
    for kind in ("linear", "mlp"):
        built = projector(num_tokens=17, kind=kind)
        assert built.num_tokens == 17
        assert built(torch.zeros(1, 17, WIDTH)).shape == (1, 17, OUT)


@pytest.mark.parametrize("config", [{"kind": "resampler"}, {"reduce": "pool"}])
def test_special_tokens_have_no_place_in_a_grid(config: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"vision\.select=full keeps .* use select=default"):
        projector(num_tokens=17, **config)


@pytest.mark.parametrize("factor", [0, 3, 8])
def test_a_factor_that_does_not_divide(factor: int) -> None:
    with pytest.raises(ConfigError, match=f"reduce_factor {factor} does not divide the 4 x 4"):
        projector(reduce="shuffle", reduce_factor=factor)


def test_resampler_settings_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"width 16 needs a number of heads .* \(not 3\)"):
        projector(kind="resampler", heads=3)
    with pytest.raises(ConfigError, match=r"width 16 needs a number of heads .* \(not -1\)"):
        projector(kind="resampler", heads=-1)
    with pytest.raises(ConfigError, match=r"width 18 .* a width divisible by 4"):
        projector(kind="resampler", out=18, heads=2)
    with pytest.raises(ConfigError, match=r"projector\.depth must be at least 1"):
        projector(kind="resampler", depth=0)

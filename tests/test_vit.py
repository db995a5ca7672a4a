"""The vision transformer equals transformers' of the same weights."""

import torch
from torch.nn.functional import linear, unfold
from transformers import CLIPVisionConfig, CLIPVisionModel

from vlm.vit import PatchEmbedding, ViT


def test_patches_by_convolution_are_those_unfolded_and_multiplied() -> None:
    torch.manual_seed(0)
    embedding = PatchEmbedding(channels=3, patch=4, width=10)
    photos = torch.randn(2, 3, 12, 8)
    patches = unfold(photos, kernel_size=4, stride=4).transpose(1, 2)
    weight, bias = embedding.projection.weight.flatten(1), embedding.projection.bias
    torch.testing.assert_close(embedding(photos), linear(patches, weight, bias), atol=1e-6, rtol=0)


def test_is_clips_vision_transformer() -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=24,
        patch_size=8,
        hidden_act="gelu",
    )
    theirs = CLIPVisionModel(config).eval()
    ours = ViT(channels=3, patch=8, grid=(3, 3), width=32, depth=3, heads=4).eval()
    state = dict(theirs.named_parameters())
    names = {
        "embedding.projection.weight": "embeddings.patch_embedding.weight",
        "class_token": "embeddings.class_embedding",
        "positions": "embeddings.position_embedding.weight",
        "norm_in": "pre_layrnorm",
        "norm_out": "post_layernorm",
        "norm_attention": "layer_norm1",
        "norm_feed_forward": "layer_norm2",
        "attention.out": "self_attn.out_proj",
        "feed_forward.0": "mlp.fc1",
        "feed_forward.2": "mlp.fc2",
        "blocks": "encoder.layers",
    }
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name == "embedding.projection.bias":
                parameter.zero_()  # CLIP's has none.
                continue
            wanted = name
            for part, its in names.items():
                wanted = wanted.replace(part, its)
            if "query_key_value" in name:
                start, end = wanted.split("attention.query_key_value")
                parts = [state[f"{start}self_attn.{each}_proj{end}"] for each in "qkv"]
                parameter.copy_(torch.cat(parts))
            else:
                parameter.copy_(state[wanted])
        photos = torch.randn(2, 3, 24, 24)
        output = theirs(photos)
        last = theirs.post_layernorm(output.last_hidden_state)
        torch.testing.assert_close(ours(photos), last, atol=1e-5, rtol=1e-5)


def test_a_feature_map_is_one_patch_for_each_position() -> None:
    vit = ViT(channels=6, patch=1, grid=(2, 3), width=16, depth=1, heads=2)
    assert vit(torch.randn(4, 6, 2, 3)).shape == (4, 7, 16)


def test_positions_of_another_grid_are_interpolated() -> None:
    torch.manual_seed(0)
    vit = ViT(3, 4, (3, 3), 16, 1, 2)
    maps = torch.randn(2, 3, 12, 12)
    assert vit.positions_of((3, 3)) is vit.positions
    assert vit(maps).shape == (2, 10, 16)
    assert vit(torch.randn(2, 3, 20, 8)).shape == (2, 11, 16)
    with torch.no_grad():
        # What is the same everywhere, and what rises evenly, stays so.
        vit.positions[1:] = torch.arange(3.0).repeat(3)[:, None]
    class_position, *rows = vit.positions_of((5, 7)).split([1, 7, 7, 7, 7, 7])
    assert torch.equal(class_position, vit.positions[:1])
    for row in rows:
        torch.testing.assert_close(row, rows[0])
        assert (row[1:] > row[:-1]).all()


def test_attentions_are_those_that_the_tokens_are_computed_with() -> None:
    torch.manual_seed(0)
    vit = ViT(3, 4, (3, 3), 16, 2, 2).eval()
    maps = torch.randn(1, 3, 12, 12)
    found = vit.attentions(maps)
    assert found.shape == (2, 2, 10, 10)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 2, 10))
    tokens = vit.embed(maps)
    for block, weights in zip(vit.blocks, found, strict=True):
        *_, values = block.attention.in_heads(block.norm_attention(tokens))
        seen = block.attention.out((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(seen, block.attention(block.norm_attention(tokens)))
        tokens = block(tokens)

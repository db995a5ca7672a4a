"""A vision transformer (Dosovitskiy et al. 2020): patches of a photo, or of a convolutional
network's feature map, become tokens, with a class token in front, that attend to one another."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """Photos or feature maps (B, C, H, W) -> patch embeddings (B, N, D), row by row.

    A convolution whose stride is its size is one linear map of each patch, of `patch` positions by
    side; with 1, each position of a feature map is a patch: the paper's hybrid.
    """

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, maps: Tensor) -> Tensor:
        return self.projection(maps).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), of all tokens or `causal`."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        heads = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1)).movedim(-2, 1)
        seen = F.scaled_dot_product_attention(*heads.unbind(-2), is_causal=self.causal)
        return self.out(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to what came in."""

    def __init__(self, width: int, heads: int, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        tokens = tokens + self.dropout(self.attention(self.norm_attention(tokens)))
        return tokens + self.dropout(self.feed_forward(self.norm_feed_forward(tokens)))


class ViT(nn.Module):
    """Photos or feature maps (B, C, rows * patch, columns * patch) -> tokens (B, 1 + N, D), normed;
    the first is the class token."""

    def __init__(
        self,
        channels: int,
        patch: int,
        grid: tuple[int, int],
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(channels, patch, width)
        self.class_token = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(1 + grid[0] * grid[1], width) * width**-0.5)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout=dropout) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)

    def forward(self, maps: Tensor) -> Tensor:
        patches = self.embedding(maps)
        class_token = self.class_token.expand(len(patches), 1, -1)
        # CLIP's norm in front of the first block (Radford et al. 2021) is what keeps it stable.
        tokens = self.norm_in(torch.cat([class_token, patches], dim=1) + self.positions)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm_out(tokens)

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
    """Multi-head self-attention (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def in_heads(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """(B, N, D) -> queries, keys and values of A heads (B, A, N, D / A)."""
        heads = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1)).movedim(-2, 1)
        return heads.unbind(-2)

    def weights(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> with what weight every token looks at every one, in each head
        (B, A, N, N)."""
        query, key, _ = self.in_heads(tokens)
        return (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        seen = F.scaled_dot_product_attention(*self.in_heads(tokens))
        return self.out(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to what came in."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
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
    the first is the class token. Another number of rows or columns than that of the `grid` is seen
    through interpolated positions."""

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
        self.grid, self.patch = grid, patch
        self.embedding = PatchEmbedding(channels, patch, width)
        self.class_token = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(1 + grid[0] * grid[1], width) * width**-0.5)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)

    def embed(self, maps: Tensor) -> Tensor:
        """What enters the first block, of the same shape as what leaves the last."""
        patches = self.embedding(maps)
        grid = maps.shape[-2] // self.patch, maps.shape[-1] // self.patch
        class_token = self.class_token.expand(len(patches), 1, -1)
        # CLIP's norm in front of the first block (Radford et al. 2021) is what keeps it stable.
        return self.norm_in(torch.cat([class_token, patches], dim=1) + self.positions_of(grid))

    def positions_of(self, grid: tuple[int, int]) -> Tensor:
        """Those of the class token and of a grid (1 + N, D): bicubic, antialiased where the grid is
        coarser than the trained one."""
        if grid == self.grid:
            return self.positions
        trained = self.positions[1:].unflatten(0, self.grid).movedim(-1, 0)[None]
        # In float32, as on a CPU nothing else can be antialiased.
        resized = F.interpolate(trained.float(), grid, mode="bicubic", antialias=True)[0]
        return torch.cat([self.positions[:1], resized.flatten(1).T.to(trained.dtype)])

    def attentions(self, maps: Tensor) -> Tensor:
        """Of one photo, the weights of attention of all blocks (L, A, T, T), T being 1 + N."""
        tokens, weights = self.embed(maps), []
        for block in self.blocks:
            weights.append(block.attention.weights(block.norm_attention(tokens)))
            tokens = block(tokens)
        return torch.cat(weights)

    def forward(self, maps: Tensor) -> Tensor:
        tokens = self.embed(maps)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm_out(tokens)

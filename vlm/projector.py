"""Projector: patch tokens (B, N, D) of the vision tower -> image tokens (B, M, H) in the language
model's embedding space. The only part that stage 1 trains."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.config import ProjectorConfig
from vlm.errors import ConfigError
from vlm.tower import VisionTower


class TokenReduction(nn.Module):
    """Fewer tokens: each square of factor x factor neighbours becomes one. `shuffle` puts them side
    by side on the feature dimension (the pixel shuffle of Shi et al. 2016 the other way round, as
    in InternVL); `pool` averages them."""

    def __init__(self, kind: str, factor: int) -> None:
        super().__init__()
        self.kind, self.factor = kind, factor

    def grid_of(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The grid that becomes of one of patches; a ConfigError if it cannot be cut so."""
        factor = self.factor
        if factor < 1 or grid[0] % factor or grid[1] % factor:
            raise ConfigError(
                f"projector.reduce_factor {factor} does not divide the {grid[0]} x {grid[1]} "
                "patch tokens of the vision tower"
            )
        return grid[0] // factor, grid[1] // factor

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N / factor^2, D * factor^2), or the same D for `pool`."""
        side = math.isqrt(tokens.shape[1]) // self.factor
        squares = tokens.unflatten(1, (side, self.factor, side, self.factor)).transpose(2, 3)
        squares = squares.flatten(1, 2)
        if self.kind == "pool":
            return squares.mean(dim=(2, 3))
        return squares.flatten(2)


class MLP(nn.Module):
    """LLaVA-1.5's projector (Liu et al. 2023, section 3): linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int, out_width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, hidden)
        self.linear_2 = nn.Linear(hidden, out_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, H)."""
        return self.linear_2(F.gelu(self.linear_1(tokens)))


class CrossAttentionBlock(nn.Module):
    """Queries look at the patch tokens, then pass a feed-forward layer; pre-norm, residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_queries = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, queries: Tensor, patches: Tensor, positions: Tensor) -> Tensor:
        """Queries (B, Q, H), patches (B, N, H) and their positions (N, H) -> queries (B, Q, H)."""
        query = self.query(self.norm_queries(queries))
        key, value = self.key_value(patches).chunk(2, dim=-1)
        # Positions say where to look; what is seen there (the values) is free of them.
        key = key + positions
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value)
        )
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        queries = queries + self.out(seen)
        return queries + self.feed_forward(self.norm_feed_forward(queries))


class Resampler(nn.Module):
    """Learned queries that cross-attend to the patch tokens (perceiver resampler of Flamingo,
    Alayrac et al. 2022, with the 2-D sine positions of Qwen-VL, Bai et al. 2023)."""

    def __init__(
        self, config: ProjectorConfig, width: int, out_width: int, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        heads = max(1, out_width // 64) if config.heads is None else config.heads
        if heads < 1 or out_width % heads or out_width % 4:
            raise ConfigError(
                f"a resampler of width {out_width} needs a number of heads that divides it "
                f"(not {heads}) and a width divisible by 4"
            )
        if config.queries < 1 or config.depth < 1:
            raise ConfigError("projector.queries and projector.depth must be at least 1")
        self.norm_in = nn.LayerNorm(width)
        self.input = nn.Linear(width, out_width)
        self.queries = nn.Parameter(torch.randn(config.queries, out_width) * 0.02)
        self.blocks = nn.ModuleList(
            CrossAttentionBlock(out_width, heads) for _ in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(out_width)
        self.register_buffer("positions", sine_positions(grid, out_width), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, Q, H)."""
        patches = self.input(self.norm_in(tokens))
        queries, positions = self.queries.expand(len(tokens), -1, -1), self.positions
        if len(positions) != patches.shape[1]:
            side = math.isqrt(patches.shape[1])
            positions = sine_positions((side, side), positions.shape[1]).to(positions)
        for block in self.blocks:
            queries = block(queries, patches, positions)
        return self.norm_out(queries)


def sine_positions(grid: tuple[int, int], width: int) -> Tensor:
    """2-D sine-cosine position vectors (rows * columns, width), float32: half of the features for
    the row, half for the column (Vaswani et al. 2017, as extended by MAE, He et al. 2021)."""
    frequencies = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    rows, columns = (
        torch.outer(torch.arange(side, dtype=torch.float32), frequencies) for side in grid
    )
    rows, columns = (torch.cat([angle.sin(), angle.cos()], dim=1) for angle in (rows, columns))
    grid_shape = (grid[0], grid[1], -1)
    both = [rows[:, None].expand(grid_shape), columns[None].expand(grid_shape)]
    return torch.cat(both, dim=-1).flatten(0, 1)


class Projector(nn.Module):
    """Token reduction (optional), LayerNorm (optional), then the projection itself.

    The tower gives N tokens of width D, more than its grid has if it keeps special ones; the
    projector has as `num_tokens` M, those of one image, of width H, in a `grid` if they have a
    place. Where the tower sees tiles, M is of one, and `row_break` (H,) is learned, which stands
    behind each row of a photo's tokens.
    """

    def __init__(self, config: ProjectorConfig, tower: VisionTower, out_width: int) -> None:
        super().__init__()
        width, grid = tower.width, tower.grid
        self.special = tower.num_tokens - grid[0] * grid[1]
        if self.special and (config.reduce != "none" or config.kind == "resampler"):
            raise ConfigError(
                "vision.select=full keeps special tokens, which have no place in the grid that "
                "token reduction and the resampler need: use select=default"
            )
        if tower.tiles and (self.special or config.kind == "resampler"):
            raise ConfigError(
                "vision.tiles puts image tokens into rows, in which special tokens and those of a "
                "resampler have no place: use vision.select=default and projector.kind=mlp or "
                "linear"
            )
        self.queries = config.queries if config.kind == "resampler" else None
        self.reduction: nn.Module = nn.Identity()
        if config.reduce != "none":
            self.reduction = TokenReduction(config.reduce, config.reduce_factor)
            width *= config.reduce_factor**2 if config.reduce == "shuffle" else 1
        self.num_tokens, self.grid = self.tokens_of(grid), self._reduced(grid)
        normed = config.input_norm and config.kind != "resampler"
        self.norm: nn.Module = nn.LayerNorm(width) if normed else nn.Identity()
        if config.kind == "resampler":
            self.projection: nn.Module = Resampler(config, width, out_width, grid)
        elif config.kind == "mlp":
            hidden = out_width if config.hidden is None else config.hidden
            if hidden < 1:
                raise ConfigError(f"projector.hidden must be at least 1, not {hidden}")
            self.projection = MLP(width, hidden, out_width)
        else:
            self.projection = nn.Linear(width, out_width)
        self.row_break = (
            nn.Parameter(torch.randn(out_width) / out_width**0.5) if tower.tiles else None
        )

    def tokens_of(self, grid: tuple[int, int]) -> int:
        """M of a photo with this grid of patches, which is square; a ConfigError where they cannot
        be reduced."""
        rows, columns = self._reduced(grid)
        return rows * columns + self.special if self.queries is None else self.queries

    def _reduced(self, grid: tuple[int, int]) -> tuple[int, int]:
        reduces = isinstance(self.reduction, TokenReduction)
        return self.reduction.grid_of(grid) if reduces else grid

    def forward(self, patch_tokens: Tensor) -> Tensor:
        """Patch tokens (B, N, D) -> image tokens (B, M, H)."""
        return self.projection(self.norm(self.reduction(patch_tokens)))

    @torch.no_grad()
    def match_scale(self, patch_tokens: Tensor, rms: float) -> None:
        """Scales the last layer so that the output has the root mean square `rms` on these patch
        tokens (B, N, D): image tokens far larger or smaller than the word embeddings beside them
        cost the first hundreds of steps."""
        scale = rms / self(patch_tokens).float().square().mean().sqrt()
        *_, last = self.projection.modules()
        for parameter in last.parameters():
            parameter.mul_(scale)
        if self.row_break is not None:
            self.row_break.mul_(rms / self.row_break.square().mean().sqrt())

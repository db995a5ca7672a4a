"""Tiles: a photo is cut into a grid of the squares that the vision tower takes, behind the whole of
it as a thumbnail, so that its details and its shape are seen at more pixels than the tower has
(the any-resolution of LLaVA-NeXT, Liu et al. 2024). Sizes are (width, height), grids (rows,
columns); equal to transformers' LlavaNext (tests/test_tiles.py).
"""

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from vlm.preprocess import Preprocessing

Grid = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """How the image tokens of one photo's squares are put together: the `grid` of its tiles, the
    grid of tokens in a square (`patches`), and how many rows of tokens are `cut` off at the top and
    at the bottom, and columns on either side, for they are of padding."""

    grid: Grid
    patches: Grid
    cut: Grid

    @property
    def squares(self) -> int:
        """Thumbnail and tiles."""
        return 1 + math.prod(self.grid)

    @property
    def tokens(self) -> int:
        """Those of the thumbnail, then row by row those of the tiles, a row break behind each."""
        rows, columns = (
            tiles * tokens - 2 * cut
            for tiles, tokens, cut in zip(self.grid, self.patches, self.cut, strict=True)
        )
        return math.prod(self.patches) + rows * (columns + 1)

    def join(self, squares: Tensor, row_break: Tensor) -> Tensor:
        """Image tokens (S, M, H) of thumbnail and tiles, and a row break (H,) -> those of the photo
        (T, H), T being `tokens`."""
        tiles = squares[1:].unflatten(0, self.grid).unflatten(2, self.patches)
        whole = tiles.transpose(1, 2).flatten(2, 3).flatten(0, 1)
        (top, left), (rows, columns) = self.cut, whole.shape[:2]
        kept = whole[top : rows - top, left : columns - left]
        breaks = row_break.to(kept.dtype).expand(len(kept), 1, -1)
        return torch.cat([squares[0], torch.cat([kept, breaks], dim=1).flatten(0, 1)])


@dataclass(frozen=True)
class Tiles:
    """The grids that photos may be cut into, and how a square becomes pixel values."""

    grids: tuple[Grid, ...]
    preprocessing: Preprocessing

    def grid(self, size: tuple[int, int]) -> Grid:
        """The grid in which a photo of this size in pixels, as large as it fits, keeps the most of
        its own pixels; among equal ones that with the least padding."""
        width, height = size

        def kept(grid: Grid) -> tuple[int, int]:
            rows, columns = self._pixels(grid)
            scale = min(columns / width, rows / height)
            seen = min(int(width * scale) * int(height * scale), width * height)
            return seen, seen - rows * columns

        return max(self.grids, key=kept)

    def layout(self, size: tuple[int, int], patches: Grid) -> Layout:
        """How a photo of this size in pixels is put together of squares of so many image tokens."""
        (width, height), grid = size, self.grid(size)
        rows, columns = (tiles * tokens for tiles, tokens in zip(grid, patches, strict=True))
        # The rounding is transformers'.
        if width / height > columns / rows:
            return Layout(grid, patches, ((rows - int(round(height * columns / width, 7))) // 2, 0))
        return Layout(grid, patches, (0, (columns - int(round(width * rows / height, 7))) // 2))

    def __call__(self, image: Image.Image) -> Tensor:
        """One RGB image -> pixel values (S, 3, size, size), float32: the thumbnail, then the tiles
        row by row. The photo is as large as the grid, in its middle, and black is around it."""
        rows, columns = self._pixels(self.grid(image.size))
        if columns / image.width < rows / image.height:
            size = columns, min(math.ceil(image.height * (columns / image.width)), rows)
        else:
            size = min(math.ceil(image.width * (rows / image.height)), columns), rows
        padded = Image.new("RGB", (columns, rows))
        resized = image.resize(size, self.preprocessing.resample)
        padded.paste(resized, ((columns - size[0]) // 2, (rows - size[1]) // 2))
        side = self.preprocessing.size
        corners = [(left, top) for top in range(0, rows, side) for left in range(0, columns, side)]
        tiles = [padded.crop((left, top, left + side, top + side)) for left, top in corners]
        values = [self.preprocessing(image), *map(self.preprocessing.pixel_values, tiles)]
        return torch.stack(values)

    def _pixels(self, grid: Grid) -> tuple[int, int]:
        """Height and width of a grid."""
        return grid[0] * self.preprocessing.size, grid[1] * self.preprocessing.size

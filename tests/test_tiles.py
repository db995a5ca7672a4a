"""Tiles: grids, counts and pixel values of transformers' LlavaNext, for photos of any shape."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor
from transformers.image_processing_utils import select_best_resolution

from tests import tiny
from tests.tiny import photo
from vlm.preprocess import read_preprocessing
from vlm.tiles import Layout, Tiles

GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""LLaVA-NeXT's."""

SIDE, PATCH = 336, 14
SHAPES = [(640, 480), (480, 640), (1, 1), (3, 2), (4000, 1), (1, 4000), (200, 601), (672, 336)]


def processor(side: int, grids: tuple = GRIDS) -> LlavaNextImageProcessorPil:
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=[[rows * side, columns * side] for rows, columns in grids],
    )


def tiles(side: int = SIDE, grids: tuple = GRIDS) -> Tiles:
    return Tiles(grids, read_preprocessing(processor(side), "squash"))


SIDES = st.integers(1, 4000) | st.integers(1, 12)
ANY_GRIDS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8)


@given(SIDES, SIDES, ANY_GRIDS.map(tuple))
@example(4000, 1, GRIDS)
@example(1, 4000, GRIDS)
@example(1, 1, GRIDS)
def test_grids_and_counts_are_transformers(width: int, height: int, grids: tuple) -> None:
    theirs = LlavaNextProcessor(processor(SIDE, grids), tiny.tokenizer(), PATCH, "full")
    ours = tiles(grids=grids)
    best = select_best_resolution((height, width), [(r * SIDE, c * SIDE) for r, c in grids])
    assert tuple(SIDE * side for side in ours.grid((width, height))) == best
    layout = ours.layout((width, height), (SIDE // PATCH, SIDE // PATCH))
    assert layout.tokens == theirs._get_number_of_features(height, width, SIDE, SIDE)


@pytest.mark.parametrize("size", SHAPES)
def test_pixel_values_are_transformers(size: tuple[int, int]) -> None:
    expected = processor(32)(photo(size=size), return_tensors="pt").pixel_values[0]
    ours = tiles(32)
    found = ours(photo(size=size))
    assert len(found) == ours.layout(size, (4, 4)).squares
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@given(st.sampled_from(SHAPES), ANY_GRIDS.map(tuple), st.integers(1, 3), st.integers(1, 3))
def test_as_many_tokens_are_joined_as_are_counted(size, grids, rows, columns) -> None:
    layout = tiles(8, grids).layout(size, (rows, columns))
    squares = torch.zeros(layout.squares, rows * columns, 2)
    assert layout.join(squares, torch.ones(2)).shape == (layout.tokens, 2)


def test_tiles_are_read_row_by_row_without_their_padding() -> None:
    layout = Layout(grid=(2, 2), patches=(2, 2), cut=(1, 0))
    squares = torch.arange(20.0).view(5, 4, 1)
    joined = layout.join(squares, torch.tensor([-1.0])).flatten().tolist()
    assert joined == [0, 1, 2, 3, 6, 7, 10, 11, -1, 12, 13, 16, 17, -1]

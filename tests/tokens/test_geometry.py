"""Grids of tokens from the size of an image and the strides of the levels."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.tokens.geometry import grids_of

SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("image_size", "grids"),
    [
        ((1, 1), ((1, 1), (2, 2), (4, 4))),
        ((32, 64), ((1, 2), (2, 4), (4, 8))),
        ((33, 64), ((2, 2), (4, 4), (8, 8))),
    ],
)
def test_an_image_is_covered_by_whole_cells_of_the_coarsest_level(image_size, grids):
    assert grids_of(image_size, (32, 16, 8)) == grids


@given(SIDES, SIDES, st.integers(1, 9), st.lists(st.integers(1, 3), max_size=3))
def test_every_grid_covers_the_image_and_is_a_multiple_of_the_coarser_one(height, width, finest, ratios):
    strides = [finest * math.prod(ratios[i:]) for i in range(len(ratios) + 1)]
    grids = grids_of((height, width), strides)
    assert grids_of((height, width), strides[:1]) == grids[:1]
    (h, w), coarsest = grids[0], strides[0]
    assert (h - 1) * coarsest < height <= h * coarsest
    assert (w - 1) * coarsest < width <= w * coarsest
    for (rows, columns), stride in zip(grids, strides, strict=True):
        assert (rows * stride, columns * stride) == (h * coarsest, w * coarsest)

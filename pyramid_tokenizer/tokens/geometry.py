"""Grids of token pyramids: how many cells an image has at each level, and which grids can belong together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyramid_tokenizer.errors import TokenRangeError

if TYPE_CHECKING:
    from torch import Tensor


def grids_of(image_size: tuple[int, int], strides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(h_l, w_l) of every level: as many cells of level 0 as cover the image, and whole multiples of them below.

    Args:
        image_size: (H, W) in pixels, before padding, each at least 1.
        strides: Input pixels per cell of each level, coarse to fine; each a multiple of the next.

    Example:
        >>> grids_of((30, 60), (32, 16, 8))
        ((1, 2), (2, 4), (4, 8))
    """
    h, w = (-(-side // strides[0]) for side in image_size)
    ratios = [strides[0] // stride for stride in strides]
    return tuple((h * ratio, w * ratio) for ratio in ratios)


def cut_to_grids(levels: Sequence[Tensor], image_size: tuple[int, int], strides: Sequence[int]) -> list[Tensor]:
    """Maps (..., h, w) without the padding that a backbone coarser than level 0 needs beyond the tokens' own."""
    grids = grids_of(image_size, strides)
    return [level[..., :h, :w] for level, (h, w) in zip(levels, grids, strict=True)]


def check_grids(grids: Sequence[tuple[int, int]], image_size: tuple[int, int]) -> None:
    """Refuses grids that no tokenizer makes of an image of that size, whatever its strides are.

    Args:
        grids: (h_l, w_l) per level, coarse to fine, each at least 1.
        image_size: (H, W) in pixels, before padding.

    Raises:
        TokenRangeError: A grid is no whole multiple of the coarser one, or no stride maps the image to the grids.
    """
    for level, ((h, w), (fine_h, fine_w)) in enumerate(itertools.pairwise(grids), start=1):
        if fine_h % h or fine_w % w or fine_h // h != fine_w // w:
            expected = f"the grid of level {level} to be the coarser one times a whole number, the same in both axes"
            raise TokenRangeError(f"expected {expected}, got {fine_h}x{fine_w} on {h}x{w}: use ids of one encode")
    # The strides are not known here, but one must exist: padding is less than a cell, (h - 1) · s < H <= h · s, and a
    # coarse cell holds a whole number of pixels per finest cell. Swapped heights and widths fail here.
    per_cell = grids[-1][0] // grids[0][0]
    least = max(-(-pixels // cells) for pixels, cells in zip(image_size, grids[0], strict=True))
    stride = -(-least // per_cell) * per_cell
    if any((cells - 1) * stride >= pixels for pixels, cells in zip(image_size, grids[0], strict=True)):
        expected = f"an image_size (height, width) that some stride maps to grids {list(grids)}"
        raise TokenRangeError(f"expected {expected}, got {image_size}: give the size of the original images")

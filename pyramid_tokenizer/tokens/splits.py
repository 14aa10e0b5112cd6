"""Which cells of a sparse level are present, told by the splits of the next coarser level's cells.

A present cell is split, and then all of its r · r children on the next finer level are present, or it is not, and then all of
them are absent; r is the ratio of the two grids. Nothing is present below an absent cell. So the cells form a tree, a quadtree
where r is 2, and one bit for each present cell of a level, its *split bit*, tells which cells of the next level are present.

B images, h and w cells of the coarser grid, H = h · r and W = w · r of the finer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramid_tokenizer.errors import TokenRangeError

ABSENT = -1
"""What stands in the ids in place of a cell that has no token. `torch.nn.functional.embedding` and `torch.bincount` refuse it,
so they cannot forget about absent cells; indexing a table by it would read the last entry."""

Presence = tuple[Tensor | None, ...]
"""Per level (B, h_l, w_l) bool, True where the cell has a token; None where all cells have one."""

_Mask = TypeVar("_Mask", Tensor, NDArray[np.bool_])


def splits_of(present: _Mask, ratio: int) -> _Mask:
    """Which cells of the coarser grid are split.

    Args:
        present: (B, H, W) bool: presence of the finer level, the same for all children of a cell.
        ratio: r, the number of children in a row.

    Returns:
        (B, h, w) bool, a view of `present`.
    """
    return present[:, ::ratio, ::ratio]


def children_of(split: _Mask, ratio: int) -> _Mask:
    """Which cells of the finer grid are present, the inverse of `splits_of`.

    Args:
        split: (B, h, w) bool: which cells of the coarser grid are split.
        ratio: r, the number of children in a row.

    Returns:
        (B, H, W) bool.

    Example:
        >>> children_of(torch.tensor([[[True, False]]]), 2).int()
        tensor([[[1, 1, 0, 0],
                 [1, 1, 0, 0]]], dtype=torch.int32)
    """
    if isinstance(split, np.ndarray):
        return split.repeat(ratio, axis=1).repeat(ratio, axis=2)
    return split.repeat_interleave(ratio, dim=1).repeat_interleave(ratio, dim=2)


def split_bits(coarse: NDArray[Any], fine: NDArray[Any]) -> NDArray[np.bool_]:
    """The split bit of every present cell of a level, image by image and row by row.

    Args:
        coarse: (B, h, w) ids of the level.
        fine: (B, H, W) ids of the next finer level.

    Example:
        >>> split_bits(np.array([[[5, -1, 2]]]), np.array([[[-1, -1, 7]]]))
        array([False,  True])
    """
    return splits_of(fine >= 0, fine.shape[1] // coarse.shape[1])[coarse >= 0]


def presence_of_bits(bits: NDArray[np.bool_], coarse: NDArray[Any], ratio: int) -> NDArray[np.bool_]:
    """Which cells of the next finer level are present, the inverse of `split_bits`.

    Args:
        bits: One split bit for every present cell of the coarser level.
        coarse: (B, h, w) ids of the coarser level.
        ratio: r, the number of children in a row.

    Returns:
        (B, H, W) bool.
    """
    split = np.zeros(coarse.shape, bool)
    split[coarse >= 0] = bits
    return children_of(split, ratio)


def count_present(present: Presence, shapes: Sequence[torch.Size], device: torch.device) -> Tensor:
    """How many tokens each image has on each level.

    Args:
        present: Presence per level.
        shapes: (B, h_l, w_l) per level.
        device: Where the masks lie.

    Returns:
        (L, B) int64 on that device, which nothing has waited for.
    """
    counts = [
        torch.full(shape[:1], shape[1] * shape[2], device=device) if mask is None else mask.flatten(1).sum(1)
        for mask, shape in zip(present, shapes, strict=True)
    ]
    return torch.stack(counts)


def count_split_bits(counts: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
    """How many split bits each image needs, where a level that is full in that image needs none.

    Args:
        counts: (L, B) int64, tokens of each level and image.
        grids: (h_l, w_l) per level.

    Returns:
        (B,) int64.
    """
    cells = torch.tensor([h * w for h, w in grids], device=counts.device)
    return (counts[:-1] * (counts[1:] < cells[1:, None])).sum(0)


def check_tree(present: Presence, grids: Sequence[tuple[int, int]]) -> None:
    """Refuses presence that is no tree of splits.

    Args:
        present: Presence per level; level 0 must be full.
        grids: (h_l, w_l) per level, each a whole multiple of the coarser one.

    Raises:
        TokenRangeError: Of the children of a cell some are present and some are not, or a child of an absent cell is
            present. The message names level, image and cell.
    """
    for level in range(1, len(present)):
        coarse, fine = present[level - 1], present[level]
        ratio = grids[level][0] // grids[level - 1][0]
        if fine is not None:
            mixed = (fine != children_of(splits_of(fine, ratio), ratio)).nonzero()  # (n, 3)
            if len(mixed):
                image, row, column = mixed[0].tolist()
                cell = f"cell ({row // ratio}, {column // ratio}) of level {level - 1} in image {image}"
                raise TokenRangeError(
                    f"expected the {ratio}x{ratio} cells of level {level} below {cell} to be all present or all absent, got "
                    f"some of each: write {ABSENT} for all of them or for none"
                )
        if coarse is not None:
            orphan = ~coarse if fine is None else ~coarse & splits_of(fine, ratio)
            places = orphan.nonzero()
            if len(places):
                image, row, column = places[0].tolist()
                raise TokenRangeError(
                    f"expected only absent cells of level {level} below the absent cell ({row}, {column}) of level "
                    f"{level - 1} in image {image}, got ids: write {ABSENT} for them, or give their parent an id"
                )

"""Split bits of arrays, and the cells that they make present, without torch: what token files need; see `tokens.splits`.

B images, h and w cells of the coarser grid, H = h · r and W = w · r of the finer one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

ABSENT = -1
"""What stands in the ids in place of a cell that has no token. `torch.nn.functional.embedding` and `torch.bincount` refuse it,
so they cannot forget about absent cells; indexing a table by it would read the last entry."""

_Mask = TypeVar("_Mask", "Tensor", NDArray[np.bool_])


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
        >>> import torch
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

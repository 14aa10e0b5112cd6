"""Finite scalar quantisation: the codebook is a fixed grid in [-1, 1]^d, so that no entry can move, die or collapse.

Every dimension is bounded by tanh and rounded on its own; the nearest grid point does both at once. The grid is
vector_quantize_pytorch's, in its symmetric form, which also allows two entries in a dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def bound(projected: Tensor) -> Tensor:
    """Into the grid's range: elementwise, the same shape.

    Of a coordinate with a normal distribution of unit deviation, it makes the cells of the grid about equally likely.

    Args:
        projected: Any shape, float.

    Returns:
        Values in [-1, 1]; the nearest point of `grid` is the library's quantisation of `projected`.

    Source: J. Parker et al., "Scaling Transformers for Low-Bitrate High-Quality Speech Coding", arXiv 2411.19842, section
        3.2, on F. Mentzer et al., "Finite Scalar Quantization", arXiv 2309.15505.

    Example:
        >>> [round(v, 3) for v in bound(torch.tensor([-9.0, 0.0, 0.5])).tolist()]
        [-1.0, 0.0, 0.462]
    """
    return torch.tanh(projected)


def grid(entries: Sequence[int]) -> Tensor:
    """All points of the grid, in the library's order: the first dimension runs fastest.

    Args:
        entries: Per dimension, 2 or more: e.g. 8 entries lie at -1, -5/7, … 1.

    Returns:
        (K, d) float32 in [-1, 1], K the product of the d entries.

    Example:
        >>> grid((3, 2)).tolist()
        [[-1.0, -1.0], [0.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    """
    from vector_quantize_pytorch import FSQ

    return FSQ(list(entries), preserve_symmetry=True).get_buffer("implicit_codebook")

"""Large maps in bands of rows, with as many rows more at either side as their values depend on: less memory, the same values.

Convolutions without normalisation over space tile exactly: a value depends on a limited number of rows around it, its *halo*,
and the zeros that pad a map begin where the map ends, for the first and the last band as for the whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

BAND_FLOATS = 2**22
"""Numbers in the part of a map that a block of the trunk works on at a time: 16 MB. glibc takes blocks of 32 MB or more from the
system anew each time; with bands twice as large the trunk of `tiny` took 3 times as much system time, and 1.3 times as much in
all."""

BAND_PIXELS = 2**20
"""Pixels of all images together that are decoded at a time: what a band needs in memory is some 100 bytes a pixel."""

HALOS_PER_BAND = 8
"""A band has at least this many times the rows of its halo: of wide images, a quarter of the rows is then computed twice."""


def enlargement_halo_px(scales: Sequence[int]) -> int:
    """Pixels around a pixel, above and below, that a linear reconstruction depends on.

    Args:
        scales: Pixels of the image per pixel of each level's linear reconstruction, coarse to fine. Each enlargement to a finer
            scale, bilinear, reaches one pixel of the coarser scale.

    Example:
        >>> enlargement_halo_px((4, 2, 1, 1))
        6
    """
    return sum(scale for scale, finer in itertools.pairwise((*scales, 1)) if scale > finer)


def in_bands(run: Callable[[slice], Tensor], *, rows: int, band: int, halo: int) -> Tensor:
    """What `run(slice(0, rows))` gives, put together from bands.

    Args:
        run: Takes a slice of the rows of its input and gives their result (B, C, r h, w), where r is any whole number.
        rows: h, all rows of the input.
        band: Rows of a band, at least 1.
        halo: Rows at either side of a band that its values may depend on.

    Returns:
        (B, C, r rows, w).

    Example:
        >>> ones, kernel = torch.ones(1, 1, 7, 3), torch.ones(1, 1, 3, 3)
        >>> def run(part):
        ...     return torch.conv2d(ones[:, :, part], kernel, padding=1)
        >>> torch.equal(in_bands(run, rows=7, band=2, halo=1), run(slice(0, 7)))
        True
    """
    if band >= rows:
        return run(slice(0, rows))
    whole: Tensor | None = None
    for start in range(0, rows, band):
        stop = min(start + band, rows)
        first, last = max(0, start - halo), min(rows, stop + halo)
        found = run(slice(first, last))
        ratio = found.shape[2] // (last - first)
        if whole is None:
            shape = (*found.shape[:2], rows * ratio, found.shape[3])
            layout = torch.contiguous_format if found.is_contiguous() else torch.channels_last
            whole = torch.empty(shape, dtype=found.dtype, device=found.device, memory_format=layout)
        whole[:, :, start * ratio : stop * ratio] = found[:, :, (start - first) * ratio : (stop - first) * ratio]
    assert whole is not None
    return whole


def by_rows(block: Callable[[Tensor], Tensor], x: Tensor, *, halo: int) -> Tensor:
    """What a block gives, band by band where the map is large and no gradient is wanted.

    Args:
        block: (B, C, h, w) -> the same.
        x: (B, C, h, w).
        halo: Rows around a row that its result depends on.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or x.numel() <= BAND_FLOATS:
        return block(x)
    band = max(1, BAND_FLOATS * x.shape[2] // x.numel())
    return in_bands(lambda part: block(x[:, :, part]), rows=x.shape[2], band=band, halo=halo)


def cut_rows(x: Tensor, rows: slice, coarsest: Tensor) -> Tensor:
    """What lies in some rows of level 0 of a map or a mask on a grid as fine or finer.

    Args:
        x: (B, ..., h, w).
        rows: The first row of level 0, and the one after the last.
        coarsest: (B, C, h_0, w_0), a map of level 0.
    """
    ratio = x.shape[-2] // coarsest.shape[-2]
    return x[..., rows.start * ratio : rows.stop * ratio, :]

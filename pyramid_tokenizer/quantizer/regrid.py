"""From the grid of one stride to that of another, without losing what an adapter's one matrix could still use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def regrid(features: Tensor, own: int, wanted: int) -> Tensor:
    """Brings a map of one stride to the grid of another.

    To a coarser grid: averages down to twice the wanted grid, then lays the four neighbours side by side (nothing is lost
    for a ratio of two); for an odd ratio it averages all the way. To a finer grid: each of the r x r places in a cell gets
    the cell's features in channels of its own, so that the adapter's one matrix is the field's "linear, then pixel shuffle".

    Args:
        features: (B, C, h, w) float.
        own: Stride of the map.
        wanted: Stride of the result; one of the two strides divides the other.

    Returns:
        (B, C', h own / wanted, w own / wanted), C' of `regridded_channels`; `features` itself for equal strides.

    Example:
        >>> regrid(torch.rand(1, 8, 4, 6), 16, 32).shape, regrid(torch.rand(1, 8, 4, 6), 16, 8).shape
        (torch.Size([1, 32, 2, 3]), torch.Size([1, 32, 8, 12]))
    """
    if own == wanted:
        return features
    if own < wanted:
        ratio = wanted // own
        if ratio % 2:
            return F.avg_pool2d(features, ratio)
        pooled = F.avg_pool2d(features, ratio // 2) if ratio > 2 else features
        return F.pixel_unshuffle(pooled, 2)
    ratio = own // wanted
    batch, channels, height, width = features.shape
    places = torch.eye(ratio**2, device=features.device, dtype=features.dtype).view(1, ratio**2, 1, 1, ratio, 1, ratio)
    spread = features.view(batch, 1, channels, height, 1, width, 1) * places  # (B, r r, C, h, r, w, r)
    return spread.reshape(batch, ratio**2 * channels, height * ratio, width * ratio)


def regridded_channels(channels: int, own: int, wanted: int) -> int:
    """Channels that `regrid` makes of `channels`.

    Example:
        >>> regridded_channels(8, 16, 32), regridded_channels(8, 8, 24), regridded_channels(8, 16, 4)
        (32, 8, 128)
    """
    if own > wanted:
        return channels * (own // wanted) ** 2
    return channels * (4 if wanted > own and wanted // own % 2 == 0 else 1)

"""The linear algebra of the gradient-free fit: whitening, ridge regression, and its best low-rank form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyramid_tokenizer.checks.devices import where_float64
from pyramid_tokenizer.checks.finite import require_finite
from pyramid_tokenizer.errors import DataError

RIDGE_SHARE = 0.03
"""Ridge as a share of the sample count. Measured: weaker ridges blow up between 128-px crops and 256-px photos."""

_SLICE = 8192
"""Rows that are taken to float64 at a time: a float64 copy of the whole sample would double the memory."""

_BLOCK = 512
"""Channels whose products with those behind them are computed together: nearly half of x'x is mirrored, and not computed."""


class Affine(NamedTuple):
    """The affine map x -> x @ weight + bias."""

    weight: Tensor
    """(C, T) float32."""
    bias: Tensor
    """(T,) float32."""


def whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel; a constant channel gets 1, so that it whitens to zero.

    Args:
        x: (N, C) float.

    Returns:
        Two (C,) float32 tensors.

    Example:
        >>> [v.tolist() for v in whitening(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))]
        [[2.0, 5.0], [1.0, 1.0]]
    """
    device, x = x.device, where_float64(x)
    mean = _mean(x)
    variance = torch.zeros_like(mean)
    for part in x.split(_SLICE):
        variance += (part.double() - mean).square().sum(0) / len(x)
    std = variance.sqrt()
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return mean.float().to(device), std.float().to(device)


def ridge(x: Tensor, y: Tensor, *, share: float = RIDGE_SHARE) -> Affine:
    """The affine map from x to y of least squared error plus `share * N` times the squared weights.

    Args:
        x: (N, C) float, channels of comparable scale.
        y: (N, T) float.
        share: Ridge per sample; 0 is plain least squares.

    Returns:
        Weight (C, T) and bias (T,), float32.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> [round(float(v), 3) for v in ridge(x, 2 * x + 1, share=0.0)]
        [2.0, 1.0]
    """
    device, x, y = x.device, where_float64(x), where_float64(y)
    centre_x, centre_y = _mean(x), _mean(y)
    gram, cross = _moments(x, y, centre_x, centre_y)
    weight = _solve(gram, cross, share)
    return Affine(weight.float().to(device), (centre_y - centre_x @ weight).float().to(device))


def reduced_rank(x: Tensor, y: Tensor, rank: int, *, share: float = RIDGE_SHARE) -> Affine:
    """The `rank` directions of x that predict y best: those of the ridge fit with the largest predicted variance.

    Distances between projections equal distances between their predictions of y (the directions are orthonormal in y's
    space), so k-means on the projections minimises the error in y.

    Args:
        x: (N, C) float, whitened.
        y: (N, T) float, targets on a common scale. With y = x this is PCA.
        rank: Directions to keep; at most min(C, T) carry anything, the rest are zero (or rounding).
        share: Ridge per sample.

    Returns:
        Weight (C, rank) and bias (rank,), float32: the projection of x, centred.

    Source: A. Izenman, "Reduced-rank regression for the multivariate linear model" (1975), with a ridge.

    Example:
        >>> x = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -2.0], [0.0, 2.0]])
        >>> down = reduced_rank(x, x, 1, share=0.0)
        >>> (x @ down.weight + down.bias).flatten().round(decimals=3).abs().tolist()
        [0.0, 0.0, 2.0, 2.0]
    """
    device, x, y = x.device, where_float64(x), where_float64(y)
    centre_x, centre_y = _mean(x), _mean(y)
    gram, cross = _moments(x, y, centre_x, centre_y)
    weight = _solve(gram, cross, share)  # (C, T)
    predicted = weight.T @ gram @ weight  # (T, T): N times the covariance of the predictions
    _, directions = torch.linalg.eigh(predicted)
    kept = directions.flip(1)[:, :rank]  # largest first
    largest = kept.gather(0, kept.abs().argmax(0, keepdim=True))
    down = weight @ (kept * largest.sign())  # a fixed sign: eigenvectors have none of their own
    if down.shape[1] < rank:
        down = torch.cat([down, down.new_zeros(len(down), rank - down.shape[1])], 1)
    return Affine(down.float().to(device), -(centre_x @ down).float().to(device))


def explained(x: Tensor, y: Tensor, fit: Affine) -> float:
    """The share of y's variance that the fit explains on this sample (R squared, pooled over y's channels).

    Args:
        x: (N, C) float.
        y: (N, T) float; if it has no variance at all, the share of a perfect fit is 1.
        fit: A map from C to T channels.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> round(explained(x, 2 * x + 1, ridge(x, 2 * x + 1, share=0.0)), 3)
        1.0
    """
    residual = total = 0.0
    x, y = where_float64(x), where_float64(y)
    weight, bias = where_float64(fit.weight), where_float64(fit.bias)
    centre = _mean(y)
    for rows, targets in zip(x.split(_SLICE), y.split(_SLICE), strict=True):
        residual += float((targets - rows @ weight - bias).double().square().sum())
        total += float((targets.double() - centre).square().sum())
    return 1 - residual / max(total, 1e-12)


def _mean(x: Tensor) -> Tensor:
    """(C,) float64."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for part in x.split(_SLICE):
        total += part.double().sum(0)
    return total / len(x)


def _moments(x: Tensor, y: Tensor, centre_x: Tensor, centre_y: Tensor) -> tuple[Tensor, Tensor]:
    """Centred x'x and x'y; products in float32, sums of slices in float64. Of x'x, blocks below the diagonal are mirrored."""
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    cross = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, device=x.device)
    for rows, targets in zip(x.split(_SLICE), y.split(_SLICE), strict=True):
        centred = (rows.double() - centre_x).float()
        for start in range(0, len(gram), _BLOCK):
            end = start + _BLOCK
            gram[start:end, start:] += (centred[:, start:end].T @ centred[:, start:]).double()
        cross += (centred.T @ (targets.double() - centre_y).float()).double()
    return gram.triu() + gram.triu(1).T, cross


def _solve(gram: Tensor, cross: Tensor, share: float) -> Tensor:
    advice = "look for NaN, infinity or huge numbers in images and backbone"
    require_finite({"x'x": gram, "x'y": cross}, stage="the statistics of the fit", advice=advice, error=DataError)
    diagonal = gram.diagonal()
    scale = diagonal.mean().clamp(min=1e-12)  # x need not be whitened exactly: the ridge is relative to its variance
    system = gram + torch.eye(len(gram), dtype=gram.dtype, device=gram.device) * (share * scale + 1e-9 * scale)
    return torch.linalg.solve(system, cross)

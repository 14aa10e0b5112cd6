"""The terms of the stages' losses: functions of batches that return a float32 scalar."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.config.training import PixelLoss

PSNR_FLOOR = 1e-4
"""Squared error that is added before the logarithm (40 dB): without it, flat images, whose error is tiny, would dominate the
gradient."""


def pixel_loss(images: Tensor, targets: Tensor, kind: PixelLoss) -> Tensor:
    """Distance between decoded images and their originals.

    "psnr" is the mean over images of log(squared error + floor). Its gradient is that of mean PSNR, up to a constant factor.

    Args:
        images: Decoded images (B, 3, H, W), float, not clamped.
        targets: Their originals (B, 3, H, W), float32 in [0, 1].
        kind: "l1", "l2" or "psnr".

    Example:
        >>> zeros = torch.zeros(1, 3, 2, 2)
        >>> float(pixel_loss(zeros + 0.5, zeros, "l2"))
        0.25
    """
    images = images.float()
    if kind == "l1":
        return F.l1_loss(images, targets)
    if kind == "l2":
        return F.mse_loss(images, targets)
    return (((images - targets) ** 2).flatten(1).mean(1) + PSNR_FLOOR).log().mean()


def alignment_loss(text_embeddings: Tensor, dense: Tensor) -> Tensor:
    """One minus the cosine between two maps of unit vectors (B, D, h, w), averaged; `dense` gets no gradient.

    Example:
        >>> up, right = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(2, 1, 2, 1, 1)
        >>> float(alignment_loss(up, up)), float(alignment_loss(up, right))
        (0.0, 1.0)
    """
    return 1 - (text_embeddings * dense.detach()).sum(1).mean()


def commitment_loss(projected: Tensor, codes: Tensor) -> Tensor:
    """Mean squared distance between projected features and their codes, both (B, d, h, w); the codes get no gradient.

    Source: van den Oord et al., "Neural Discrete Representation Learning" (2017), eq. 3.
    """
    return F.mse_loss(projected, codes.detach())


def straight_through(projected: Tensor, codes: Tensor) -> Tensor:
    """The codes (B, d, h, w), with a gradient that goes to the projections of the same shape as if they had been returned.

    Source: Y. Bengio et al., "Estimating or propagating gradients through stochastic neurons" (2013).
    """
    return projected + (codes - projected).detach()


def target_at(images: Tensor, scale: int) -> Tensor:
    """Images (B, 3, H, W) averaged over squares of `scale` x `scale` pixels."""
    return F.avg_pool2d(images, scale) if scale > 1 else images


def mean_psnr(images: Tensor, targets: Tensor) -> float:
    """Mean PSNR in dB of images (B, 3, H, W), whose pixels are clamped and not rounded; for logs."""
    error = ((images.detach().float().clamp(0, 1) - targets) ** 2).flatten(1).mean(1)
    return float((-10 * torch.log10(error.clamp(min=1e-10))).mean())

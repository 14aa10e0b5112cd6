"""Losses of the stages; scalars, float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.config.training import PixelLoss

PSNR_FLOOR = 1e-4
"""Squared error below which an image counts as solved (40 dB): keeps flat images from ruling the gradient."""


def pixel_loss(images: Tensor, targets: Tensor, kind: PixelLoss) -> Tensor:
    """Distance between decoded images and their originals, both (B, 3, H, W).

    "psnr" is the mean over images of log(squared error + floor): but for a constant factor, its gradient is that of mean
    PSNR.

    Args:
        images: Float, not clamped.
        targets: Float32 in [0, 1].
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
    """One less the cosine between unit maps (B, D, h, w), averaged; `dense` is the fixed side.

    Example:
        >>> up, right = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(2, 1, 2, 1, 1)
        >>> float(alignment_loss(up, up)), float(alignment_loss(up, right))
        (0.0, 1.0)
    """
    return 1 - (text_embeddings * dense.detach()).sum(1).mean()


def commitment_loss(projected: Tensor, codes: Tensor) -> Tensor:
    """Mean squared distance of projections to their (fixed) codes, both (B, d, h, w).

    Source: van den Oord et al., "Neural Discrete Representation Learning" (2017), eq. 3.
    """
    return F.mse_loss(projected, codes.detach())


def straight_through(projected: Tensor, codes: Tensor) -> Tensor:
    """The codes in the forward pass, the projections' gradient in the backward pass; both (B, d, h, w).

    Source: Y. Bengio et al., "Estimating or propagating gradients through stochastic neurons" (2013).
    """
    return projected + (codes - projected).detach()


def target_at(images: Tensor, scale: int) -> Tensor:
    """Images (B, 3, H, W) averaged down by a whole ratio."""
    return F.avg_pool2d(images, scale) if scale > 1 else images


def mean_psnr(images: Tensor, targets: Tensor) -> float:
    """Mean over images of the PSNR in dB of unrounded pixels, for logs."""
    error = ((images.detach().float().clamp(0, 1) - targets) ** 2).flatten(1).mean(1)
    return float((-10 * torch.log10(error.clamp(min=1e-10))).mean())

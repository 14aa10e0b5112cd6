"""Thumbnails: the linear reconstruction at a fraction of the image's size, for which no block of the decoder runs."""

from __future__ import annotations

from numbers import Real

import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.checks.arguments import shown
from pyramid_tokenizer.errors import ConfigError

REDUCTIONS = (1, 2, 4, 8)
"""How many pixels of the image, along each side, one pixel of a decoded one may stand for."""


def reduction_of(scale: float) -> int:
    """How many pixels of the image one pixel stands for, along each side, when it is decoded at a scale.

    Args:
        scale: 1, 1/2, 1/4 or 1/8.

    Raises:
        ConfigError: Anything else.

    Example:
        >>> reduction_of(0.25)
        4
    """
    for reduction in REDUCTIONS:
        if isinstance(scale, Real) and not isinstance(scale, bool) and scale == 1 / reduction:
            return reduction
    raise ConfigError(
        f"expected scale 1, 1/2, 1/4 or 1/8, got {shown(scale)}: resize the decoded image by other ratios"
    )


def reduce_image(image: Tensor, *, scale: int, reduction: int) -> Tensor:
    """An image that lies at one scale, brought to another: means of squares of pixels, or bilinear enlargement.

    Args:
        image: (B, 3, h, w), whose pixels stand for `scale` pixels of the original along each side.
        scale: At least 1.
        reduction: What a pixel of the result stands for.

    Returns:
        (B, 3, ceil(h scale / reduction), ceil(w scale / reduction)).

    Example:
        >>> import torch
        >>> reduce_image(torch.tensor([[[[0.0, 1.0, 2.0]]]]), scale=1, reduction=2).tolist()
        [[[[0.5, 2.0]]]]
    """
    if scale > reduction and scale % reduction == 0:
        return enlarge(image, scale // reduction)
    if reduction % scale:
        image, scale = enlarge(image, scale), 1
    return F.avg_pool2d(image, reduction // scale, ceil_mode=True)

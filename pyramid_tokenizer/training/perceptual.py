"""Perceptual distances between images, an optional term of the decoder's loss."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones import Backbone
from pyramid_tokenizer.config.training import Perceptual
from pyramid_tokenizer.errors import MissingExtraError, PyramidTokenizerError

Distance = Callable[[Tensor, Tensor], Tensor]
"""A function of decoded images and their originals, both (B, 3, H, W), originals in [0, 1], that returns a scalar."""


def perceptual_distance(kind: Perceptual, backbone: Backbone) -> Distance | None:
    """The perceptual distance of that kind.

    Args:
        kind: "none" for none. "backbone" compares the finest maps of the frozen backbone and needs no further weights. "lpips"
            is the learned metric of the package of that name, whose network is downloaded on first use.
        backbone: The tokenizer's backbone.

    Returns:
        A function of decoded images and originals, or None for "none".

    Raises:
        MissingExtraError: lpips is not installed.
        PyramidTokenizerError: The network of LPIPS cannot be downloaded.

    Example:
        >>> import torch
        >>> from pyramid_tokenizer.backbones import ToyBackbone
        >>> distance = perceptual_distance("backbone", ToyBackbone())
        >>> images = torch.rand(1, 3, 32, 32)
        >>> float(distance(images, images)), float(distance(images, 1 - images)) > 0.1
        (0.0, True)
    """
    if kind == "none":
        return None
    return _lpips(backbone) if kind == "lpips" else lambda images, targets: _map_distance(backbone, images, targets)


def _map_distance(backbone: Backbone, images: Tensor, targets: Tensor) -> Tensor:
    """Squared distance between the unit feature vectors of two batches, averaged over cells.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", arXiv 1801.03924, eq. 1,
        with all channels weighted alike.
    """
    ours, theirs = (F.normalize(backbone.shallow(x), dim=1) for x in (images.float(), targets))
    return (ours - theirs.detach()).square().sum(1).mean()


def _lpips(backbone: Backbone) -> Distance:
    try:
        import lpips
    except ModuleNotFoundError as error:
        raise MissingExtraError('expected lpips, got none: pip install "pyramid-tokenizer[lpips]"') from error
    try:
        metric = lpips.LPIPS(net="alex", verbose=False)
    except OSError as error:  # urllib's errors are of this kind
        raise PyramidTokenizerError(
            f'expected the network of LPIPS from its public address, got {error}: check the network, or use "backbone"'
        ) from error
    metric.requires_grad_(False).to(next(iter(backbone.state_dict().values())).device)
    return lambda images, targets: metric(images.float(), targets, normalize=True).mean()

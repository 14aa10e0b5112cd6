"""What every token of a pyramid saves: the squared error of the linear reconstruction with and without it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.checks.devices import exact_float32
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.tokens.thinning import Gains


@torch.no_grad()
def measure_gains(quantizer: PyramidQuantizer, ids: Sequence[Tensor], images: Tensor) -> Gains:
    """The gains of full pyramids whose images are at hand.

    Args:
        quantizer: Which made the ids.
        ids: (B, h_l, w_l) int64 per level, coarse to fine.
        images: (B, 3, H, W) float in [0, 1]; the grids may reach beyond their lower and right edges, and no error counts
            there.

    Example:
        >>> from pyramid_tokenizer import PyramidTokenizer
        >>> tok = PyramidTokenizer.from_pretrained("tiny")
        >>> images = torch.rand(1, 3, 64, 64)
        >>> gains = measure_gains(tok.quantizer, tok.encode(images).ids, images)
        >>> [tuple(level.shape) for level in gains.saved]
        [(1, 2, 2), (1, 4, 4)]
    """
    height, width = images.shape[-2:]
    errors = [
        (image[..., :height, :width] - images).square() for image in _images_by_level(quantizer, quantizer.codes(ids))
    ]
    return _gains_of(quantizer, errors, ids)


@torch.no_grad()
def estimate_gains(quantizer: PyramidQuantizer, ids: Sequence[Tensor], image_size: tuple[int, int]) -> Gains:
    """The gains of full pyramids from their ids alone.

    A code is the mean of what it stands for, so that on average it saves the squared error that it adds: what a level changes
    in the linear reconstruction. The error that all levels leave is unknown, and counts as zero.

    Args:
        quantizer: Which made the ids.
        ids: As `measure_gains` takes them.
        image_size: (H, W) in pixels.
    """
    height, width = image_size
    images = [image[..., :height, :width] for image in _images_by_level(quantizer, quantizer.codes(ids))]
    changes = [(fine - coarse).square() for coarse, fine in itertools.pairwise(images)]
    errors = [torch.zeros_like(images[0])]
    for change in reversed(changes):
        errors.insert(0, errors[0] + change)
    return _gains_of(quantizer, errors, ids)


def _images_by_level(quantizer: PyramidQuantizer, codes: Sequence[Tensor]) -> list[Tensor]:
    """The linear reconstruction at the end of each level, at the resolution of the image; it decides which tokens stay."""
    with exact_float32():
        images = quantizer.linear_reconstructions(codes)
        return [quantizer.to_image_size(image, level) for level, image in enumerate(images)]


def _gains_of(quantizer: PyramidQuantizer, errors: Sequence[Tensor], ids: Sequence[Tensor]) -> Gains:
    """Gains from the squared error (B, 3, H, W) at the end of each level."""
    sums = [error.sum(1, keepdim=True) for error in errors]
    saved = []
    for level, (coarse, fine) in enumerate(itertools.pairwise(sums)):
        stride, grid = quantizer.strides[level], ids[level].shape[1:]
        missing = [cells * stride - side for cells, side in zip(grid, coarse.shape[-2:], strict=True)]
        inside = F.pad(coarse - fine, (0, missing[1], 0, missing[0]))
        saved.append(F.avg_pool2d(inside, stride)[:, 0] * stride**2)
    return Gains(error=sums[0].sum((1, 2, 3)), saved=tuple(saved))

"""Large images encoded in bands of rows: the same ids as of the whole, with memory that grows little with the image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

import torch
from torch import Tensor

from pyramid_tokenizer.backbones.base import Backbone, RowBackbone
from pyramid_tokenizer.images import pad_to_multiple
from pyramid_tokenizer.quantizer.by_rows import RowQuantizer
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer

LARGE_PIXELS = 2**21
"""Images of more pixels are encoded one by one and in bands. Measured with `tiny` on a CPU: as fast as whole at 1024 x 1024 px,
and at 2048 x 2048 px in four fifths of the time."""

BAND_PIXELS = 2**20
"""Pixels of an image that the backbone gets at a time."""


def is_large(images: Tensor) -> bool:
    """Whether images (..., 3, H, W) are worth encoding in bands; never while a graph is compiled."""
    return not torch.compiler.is_compiling() and images.shape[-2] * images.shape[-1] > LARGE_PIXELS


def runs_by_rows(backbone: Backbone) -> TypeGuard[RowBackbone]:
    """Whether a backbone can read images in bands; asked of large images only, as it is tried at the first call."""
    return getattr(backbone, "runs_by_rows", False)


def encode_by_rows(
    backbone: RowBackbone, quantizer: PyramidQuantizer, image: Tensor, *, multiple_px: int, levels: int
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Ids per level of an image, coarse to fine: (1, h_l, w_l) int64 each, on the grids of the padded image; and image ids.

    Args:
        backbone: One that `runs_by_rows`.
        quantizer: All levels.
        image: (1, 3, H, W) float in [0, 1].
        multiple_px: Sides are padded to multiples of this.
        levels: How many of the coarsest levels.

    Returns:
        The ids, and (1, M) int64 of the image tokens; None where there are none.

    Raises:
        BackboneError, CheckpointError, ImageValueError: As for `PyramidTokenizer.encode`.
    """
    by_rows = RowQuantizer(quantizer, channels=backbone.channels, strides=backbone.strides, levels=levels)
    bands = _bands(image, multiple_px, device=next(quantizer.buffers()).device)
    outputs = backbone.by_rows(bands, by_rows.read, with_dense=quantizer.needs_dense)
    return by_rows.ids(outputs), quantizer.encode_image(outputs)


def _bands(image: Tensor, multiple_px: int, *, device: torch.device) -> Iterator[Tensor]:
    """Bands of an image (1, 3, H, W) from the top, padded like the whole: at the right, and the last one at the bottom."""
    band = multiple_px * max(1, BAND_PIXELS // (multiple_px * image.shape[3]))
    for rows in image.split(band, dim=2):
        yield pad_to_multiple(rows.to(device), multiple=multiple_px)

"""Large images encoded in overlapping windows, where a backbone cannot read bands of rows: other ids than of the whole image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.base import Backbone
from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.backbones.windows import OVERLAP, JoinedMap, Windows
from pyramid_tokenizer.checks.arguments import shown
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.images import pad_to_multiple
from pyramid_tokenizer.quantizer.by_windows import WindowQuantizer
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer

WINDOW_PIXELS = 2**19
"""Pixels of windows that the backbone gets at a time."""

USUAL_PX = 512
"""Side of the windows that the warning about a large image suggests, brought to the next multiple."""


def check_window(window_px: int, *, multiple_px: int) -> None:
    """Raises ConfigError for a side of windows that is no multiple of `multiple_px`, or smaller than `OVERLAP` of them."""
    least = OVERLAP * multiple_px
    if not isinstance(window_px, int) or isinstance(window_px, bool) or window_px < least or window_px % multiple_px:
        raise ConfigError(
            f"expected window_px of {least} or more in multiples of {multiple_px}, as the model's levels have them, got "
            f"{shown(window_px)}: take e.g. {usual_window(multiple_px)}"
        )


def usual_window(multiple_px: int) -> int:
    """The side of windows to begin with, in pixels."""
    return max(OVERLAP, -(-USUAL_PX // multiple_px)) * multiple_px


def encode_by_windows(
    backbone: Backbone, quantizer: PyramidQuantizer, image: Tensor, *, window_px: int, multiple_px: int, levels: int
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Ids per level of an image, coarse to fine: (1, h_l, w_l) int64 each, on the grids of the padded image; and image ids.

    Args:
        backbone: Any one.
        quantizer: All levels.
        image: (1, 3, H, W) float in [0, 1].
        window_px: Side of a window.
        multiple_px: Sides are padded to multiples of this.
        levels: How many of the coarsest levels.

    Returns:
        The ids, and (1, M) int64 of the image tokens; None where there are none.

    Raises:
        BackboneError, CheckpointError, ImageValueError: As for `PyramidTokenizer.encode`.
    """
    padded = [-(-side // multiple_px) * multiple_px for side in image.shape[-2:]]
    windows = Windows.of(padded, window_px=window_px, multiple_px=multiple_px)
    maps = {"channels": backbone.channels, "strides": backbone.strides}
    by_windows = WindowQuantizer(quantizer, windows, levels=levels, **maps)
    height, width = windows.size
    at_once = max(1, WINDOW_PIXELS // (height * width))
    dense: JoinedMap | None = None
    embeddings: list[Tensor] = []
    for first in range(0, len(windows.corners), at_once):
        corners = windows.corners[first : first + at_once]
        parts = [image[..., top : top + height, left : left + width] for top, left in corners]
        batch = torch.cat([pad_to_multiple(part, multiple=multiple_px) for part in parts])
        features = backbone(batch.to(next(quantizer.buffers()).device), with_dense=quantizer.needs_dense)
        by_windows.read(corners, features)
        if features.dense is not None:
            dense = JoinedMap(windows) if dense is None else dense
            dense.add(corners, features.dense)
        embeddings += [] if features.embedding is None else [F.normalize(features.embedding, dim=1)]
    embedding = torch.cat(embeddings).mean(0, keepdim=True) if embeddings else None
    outputs = FeaturePyramid(maps=(), strides=(), embedding=embedding, dense=None if dense is None else dense.whole)
    return by_windows.ids(outputs), quantizer.encode_image(outputs)

"""`FeaturePyramid`: what a backbone gives and a quantizer reads. This docstring is the legend of shapes of the package.

Legend
    B            images of a batch, all of one size
    H, W         height and width of the padded batch, multiples of the coarsest stride
    level l      a step of the token pyramid; level 0 is the coarsest everywhere
    s_l          stride: input pixels per cell; each stride is a multiple of the next finer one
    (h_l, w_l)   grid of a level: (H / s_l, W / s_l)
    K_l, d_l     entries of a level's codebook, dimensions of one entry
    ids          (B, h_l, w_l) int64 in [0, K_l)
    codes        (B, d_l, h_l, w_l) float32, codebook vectors
    maps         (B, C, h, w) float, the backbone's features before quantisation, coarse to fine
    D            dimensions of the space that images and words share
    embedding    (B, D) float, the image embedding: one vector of that space for each image
    dense        (B, D, h, w) float, the dense features: one vector of that space for each location
    images       (B, 3, H, W) float in [0, 1], RGB
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.checks.finite import require_finite
from pyramid_tokenizer.errors import BackboneError, DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturePyramid:
    """Feature maps of one batch, coarse to fine, and the text-aligned outputs if they were asked for.

    Example:
        >>> import torch
        >>> from pyramid_tokenizer.backbones import ToyBackbone
        >>> features = ToyBackbone()(torch.zeros(1, 3, 64, 64))
        >>> [tuple(m.shape) for m in features.maps], features.strides
        ([(1, 32, 2, 2), (1, 24, 4, 4), (1, 16, 8, 8), (1, 8, 16, 16)], (32, 16, 8, 4))
    """

    maps: tuple[Tensor, ...]
    """(B, C_i, H / stride_i, W / stride_i) each; deepest and coarsest first."""
    strides: tuple[int, ...]
    """Input pixels per cell of each map; never increases."""
    embedding: Tensor | None = None
    """(B, D) float, the backbone's image embedding, not normalised; None unless asked for."""
    dense: Tensor | None = None
    """(B, D, h, w) float, the backbone's dense features; None unless asked for, or where the backbone has none."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the batch the maps were made from."""
        height, width = self.maps[0].shape[-2:]
        return height * self.strides[0], width * self.strides[0]

    def require_finite(self) -> None:
        """Raises BackboneError where a feature is NaN or infinite."""
        named = {f"the map of stride {stride}": found for found, stride in zip(self.maps, self.strides, strict=True)}
        named |= {"the image embedding": self.embedding} if self.embedding is not None else {}
        named |= {"the dense features": self.dense} if self.dense is not None else {}
        advice = "its weights were altered, or it overflows in its dtype; load it again, in float32 or bfloat16"
        require_finite(named, stage="the features of the backbone", advice=advice, error=BackboneError)


def semantic_target(features: FeaturePyramid, grid: Sequence[int]) -> Tensor:
    """The dense features on a grid: (B, D, h, w) float32, unit vectors; what the text embeddings of codes are fitted to.

    A backbone without dense features gives its image embedding at every cell: codes then learn the embedding of the images
    that they tend to appear in.

    Args:
        features: Of a batch, made with `with_dense=True`.
        grid: (h, w) of the result.

    Raises:
        DataError: The features have neither dense features nor an image embedding.

    Example:
        >>> import torch
        >>> from pyramid_tokenizer.backbones import ToyBackbone
        >>> features = ToyBackbone()(torch.rand(1, 3, 64, 64), with_dense=True)
        >>> semantic_target(features, (4, 4)).shape
        torch.Size([1, 16, 4, 4])
    """
    height, width = grid
    if features.dense is not None:
        resized = F.interpolate(features.dense.float(), (height, width), mode="bilinear", align_corners=False)
        return F.normalize(resized, dim=1)
    if features.embedding is None:
        raise DataError(
            "expected dense features or an image embedding, got neither: call the backbone with with_dense=True"
        )
    return F.normalize(features.embedding.float(), dim=1)[..., None, None].expand(-1, -1, height, width)


def enlarge(x: Tensor, ratio: int) -> Tensor:
    """Bilinear enlargement by a whole ratio, cell centres aligned.

    Args:
        x: (B, C, h, w) float.
        ratio: At least 1.

    Returns:
        (B, C, ratio h, ratio w); `x` itself for a ratio of 1.

    Example:
        >>> import torch
        >>> enlarge(torch.tensor([[[[0.0, 1.0]]]]), 2)[0, 0, 0].tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    return x if ratio == 1 else F.interpolate(x, scale_factor=ratio, mode="bilinear", align_corners=False)

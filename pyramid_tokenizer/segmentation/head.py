"""The segmentation head: look-up embeddings + fused maps + image embedding -> refined embeddings per cell.

The look-up embedding of a cell is the weighted sum over levels of the text embeddings of its codes, e = sum_l w_l u_l[id_l].
It is not normalised, so scores e . t are linear in it: N words make one table of K_l x N scores per level, and segmenting an
image is indexing these tables. The head corrects e by what the trunk knows about the surroundings of the cell, and by what the
image embedding of the tokens says of the image as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.decoder.blocks import ResidualBlock
from pyramid_tokenizer.decoder.trunk import TopDownTrunk

START_SCALE = 20.0
"""Factor from similarities to the sigmoid's logits at the start of training."""

START_BIAS = -4.0
"""Added to the logits at the start of training: most classes are absent from most pixels."""


class SegmentationHead(nn.Module):
    """Look-up embeddings + fused maps + image embedding -> refined embeddings; the correction's last layer starts at zero.

    So training starts exactly at the look-up result. Scores are those of the refined embeddings with words; a scale and a
    bias, the same for all words, turn them into logits of one sigmoid per class.

    Args:
        embedding_dim: D, dimensions of the text space.
        fused_channels: Channels of the trunk's fused maps, coarse to fine.
        ratios: Per fused map, how many times finer the finest grid is.
        width: Channels inside.
        depth: Residual blocks.
        trunk: A trunk of the head's own, where the decoder is not shared; None where the tokenizer's is.

    Example:
        >>> head = SegmentationHead(embedding_dim=16, fused_channels=(8, 8), ratios=(2, 1), width=8, depth=1)
        >>> lookup, fused = torch.rand(1, 16, 4, 4), [torch.rand(1, 8, 2, 2), torch.rand(1, 8, 4, 4)]
        >>> bool((head(lookup, fused, torch.rand(1, 16)) == lookup).all())
        True
        >>> head.logits(lookup, torch.rand(5, 16)).shape
        torch.Size([1, 5, 4, 4])
    """

    def __init__(
        self,
        *,
        embedding_dim: int,
        fused_channels: Sequence[int],
        ratios: Sequence[int],
        width: int,
        depth: int,
        trunk: TopDownTrunk | None = None,
    ):
        super().__init__()
        self.width, self.depth = width, depth
        self.ratios = tuple(ratios)
        self.trunk = trunk
        self.see = nn.Conv2d(embedding_dim, width, 1)
        self.see_image = nn.Linear(embedding_dim, width)
        self.embed = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in fused_channels)
        self.refine = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
        self.to_embedding = nn.Conv2d(width, embedding_dim, 1)
        nn.init.zeros_(self.to_embedding.weight)
        nn.init.zeros_(self.to_embedding.bias)  # type: ignore[arg-type]
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))
        self.bias = nn.Parameter(torch.tensor(START_BIAS))

    def forward(self, lookup: Tensor, fused: Sequence[Tensor], image: Tensor) -> Tensor:
        """Refined embeddings.

        Args:
            lookup: (B, D, h, w) float, the look-up embeddings on the finest grid.
            fused: (B, C_l, h_l, w_l) float per level, the trunk's maps.
            image: (B, D) float, the image embeddings of the same tokens, rows of unit norm.

        Returns:
            (B, D, h, w), not normalised, in the more precise of the two dtypes: a bfloat16 head rounds only the correction.
        """
        dtype = self.see.weight.dtype
        x = self.see(lookup.to(dtype)) + self.see_image(image.to(dtype))[:, :, None, None]
        for embed, level, ratio in zip(self.embed, fused, self.ratios, strict=True):
            x = x + enlarge(embed(level), ratio)
        return lookup + self.to_embedding(F.gelu(self.refine(x)))

    def logits(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Logits of one sigmoid per word.

        Args:
            embeddings: (B, D, h, w) float.
            text: (N, D) float, unit rows.

        Returns:
            (B, N, h, w).
        """
        return self.to_logits(torch.einsum("bdhw,nd->bnhw", embeddings, text))

    def to_logits(self, scores: Tensor) -> Tensor:
        """Scores `e . t` of any shape -> logits of the same shape, in the same order: the map is increasing."""
        return self.log_scale.exp() * scores + self.bias


def build_head(
    trunk: TopDownTrunk, *, embedding_dim: int, width: int, depth: int, shared_decoder: bool
) -> SegmentationHead:
    """An untrained head that fits a trunk.

    Args:
        trunk: The tokenizer's.
        embedding_dim: D of the backbone.
        width: Channels inside.
        depth: Residual blocks.
        shared_decoder: Whether the head reads `trunk`; False gives it an untrained one of its own, of the same shape.

    Example:
        >>> trunk = TopDownTrunk(dims=(4, 4), strides=(16, 8), widths=(8, 8), depths=(1, 1))
        >>> build_head(trunk, embedding_dim=16, width=8, depth=1, shared_decoder=True).ratios
        (2, 1)
    """
    return SegmentationHead(
        embedding_dim=embedding_dim,
        fused_channels=trunk.widths,
        ratios=[stride // trunk.strides[-1] for stride in trunk.strides],
        width=width,
        depth=depth,
        trunk=None if shared_decoder else trunk.untrained(),
    )

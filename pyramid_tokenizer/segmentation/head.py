"""Ids + text embeddings -> scores per cell: by indexing alone (look-up), or refined by a head on the shared trunk (decoder).

A cell's embedding is the weighted sum over levels of its codes' addresses, `e = sum_l w_l u_l[id_l]`. It is not
normalised, so scores `e . t` are linear in it: a vocabulary of N words makes one table of K_l x N scores per level, and
segmenting an image is indexing them. No pixel and no feature is needed.
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
"""Of similarities in the sigmoid's logits at the start of training."""


START_BIAS = -4.0
"""Most classes are absent at most pixels: the start of training predicts so."""


class SegmentationHead(nn.Module):
    """Look-up embeddings + fused maps -> refined embeddings; the correction's last layer starts at zero.

    So training starts exactly at the look-up result. Scores are those of the refined embeddings with words; a scale and a
    bias, the same for all words, turn them into logits of one sigmoid per class.

    Args:
        embedding_dim: D of the text space.
        fused_channels: Channels of the trunk's fused maps, coarse to fine.
        ratios: Per fused map, how many times finer the finest grid is.
        width: Channels inside.
        depth: Residual blocks.
        trunk: A trunk of the head's own, where the decoder is not shared; None where the tokenizer's is.

    Example:
        >>> head = SegmentationHead(embedding_dim=16, fused_channels=(8, 8), ratios=(2, 1), width=8, depth=1)
        >>> lookup, fused = torch.rand(1, 16, 4, 4), [torch.rand(1, 8, 2, 2), torch.rand(1, 8, 4, 4)]
        >>> bool((head(lookup, fused) == lookup).all())
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
        self.ratios = tuple(ratios)
        self.trunk = trunk
        self.see = nn.Conv2d(embedding_dim, width, 1)
        self.embed = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in fused_channels)
        self.refine = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
        self.to_embedding = nn.Conv2d(width, embedding_dim, 1)
        nn.init.zeros_(self.to_embedding.weight)
        nn.init.zeros_(self.to_embedding.bias)  # type: ignore[arg-type]
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))
        self.bias = nn.Parameter(torch.tensor(START_BIAS))

    def forward(self, lookup: Tensor, fused: Sequence[Tensor]) -> Tensor:
        """Refined embeddings.

        Args:
            lookup: (B, D, h, w) float, `gather_rows` of the weighted addresses on the finest grid.
            fused: (B, C_l, h_l, w_l) float of every level, from the trunk.

        Returns:
            (B, D, h, w), not normalised; of `lookup`'s dtype or a finer one: in a bfloat16 head only the correction is coarse.
        """
        x = self.see(lookup.to(self.see.weight.dtype))
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
        """Scores `e . t` of any shape -> logits of the same shape; increasing, so the order of classes stays."""
        return self.log_scale.exp() * scores + self.bias

"""The trunk: codes -> fused maps, coarse to fine. Pixel decoder and segmentation head share the tokenizer's one trunk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.decoder.bands import by_rows
from pyramid_tokenizer.decoder.blocks import ResidualBlock, reset_children
from pyramid_tokenizer.tokens.presence import keep_present, mask_of
from pyramid_tokenizer.tokens.splits import Presence


class TopDownTrunk(nn.Module):
    """Starts at level 0, enlarges, fuses the next level, and so on to the finest grid.

    A learned constant takes the place of levels that a prefix does not have, and of absent cells of sparse levels, so that
    every prefix gives a fused map on the finest grid.

    Args:
        dims: d_l, channels of the codes per level, coarse to fine.
        strides: s_l per level.
        widths: Channels of the fused map per level.
        depths: Residual blocks per level.

    Example:
        >>> trunk = TopDownTrunk(dims=(4, 4), strides=(16, 8), widths=(8, 8), depths=(1, 1))
        >>> [tuple(m.shape) for m in trunk([torch.zeros(1, 4, 2, 2)])]
        [(1, 8, 2, 2), (1, 8, 4, 4)]
    """

    def __init__(self, *, dims: Sequence[int], strides: Sequence[int], widths: Sequence[int], depths: Sequence[int]):
        super().__init__()
        self.dims, self.strides = tuple(dims), tuple(strides)
        self.widths, self.depths = tuple(widths), tuple(depths)
        self.ratios = [1, *(coarse // fine for coarse, fine in itertools.pairwise(strides))]
        self.embed = nn.ModuleList(nn.Conv2d(d, w, 1) for d, w in zip(dims, widths, strict=True))
        self.absent = nn.ParameterList(nn.Parameter(torch.zeros(1, w, 1, 1)) for w in widths[1:])  # level 0 never is
        self.carry = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(widths))
        self.fuse = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(w) for _ in range(d))) for w, d in zip(widths, depths, strict=True)
        )

    def untrained(self) -> TopDownTrunk:
        """A new trunk of the same shape with fresh weights."""
        return TopDownTrunk(dims=self.dims, strides=self.strides, widths=self.widths, depths=self.depths)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws all parameters anew; the constants of missing levels become zero."""
        reset_children(self)
        for constant in self.absent:
            constant.zero_()

    def forward(self, codes: Sequence[Tensor], present: Presence = ()) -> list[Tensor]:
        """Fused maps of all levels, from the codes of all levels or of a prefix.

        Args:
            codes: (B, d_l, h_l, w_l) float per level given, coarse to fine; at least level 0. Detail levels are not read.
            present: Masks of sparse levels; see `Presence`.

        Returns:
            (B, width_l, h_l, w_l) for every level of the trunk.
        """
        fused: list[Tensor] = []
        for index, ratio in enumerate(self.ratios):
            own = self._own(index, codes, mask_of(present, index))
            x = own + enlarge(self.carry[index - 1](fused[-1]), ratio) if fused else own
            for block in self.fuse[index].children():
                x = by_rows(block, x, halo=ResidualBlock.halo)
            fused.append(x)
        return fused

    def _own(self, index: int, codes: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """What a level adds: (B, width, h, w), or its constant, (1, width, 1, 1), where all of it is absent."""
        if index >= len(codes):
            return self.absent[index - 1]
        own = self.embed[index](codes[index])
        return own if mask is None else keep_present(own, mask, self.absent[index - 1].to(own.dtype))

"""One level of the pyramid: whiten -> adapter -> nearest entry -> read-outs.

It projects what it reads to a few dimensions (the adapter), takes the nearest codebook entry, and has two read-outs of an
entry: `pixel_readout` (the pixels of the cell, at the level's scale) and its *address*, its place in the text space, by a linear map
(`text_readout`) or from a table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.config.models import LevelConfig
from pyramid_tokenizer.quantizer.codebooks import bound
from pyramid_tokenizer.quantizer.nearest import affine_rows, nearest


class LevelQuantizer(nn.Module):
    """One level: whiten -> adapter -> nearest entry -> read-outs.

    Args:
        config: Stride, maps, codebook size and dimensions.
        in_channels: C, channels of the level's input (maps and context).
        patch_px: p, side of the image that one cell paints.
        embedding_dim: D, dimensions of the text space.
        unit_addresses: Whether addresses are directions; else they are what is added to those of coarser levels.
    """

    mean: Tensor
    std: Tensor
    codebook: Tensor
    share: Tensor
    address_table: Tensor

    def __init__(
        self,
        config: LevelConfig,
        *,
        in_channels: int,
        patch_px: int,
        embedding_dim: int,
        unit_text_embeddings: bool = True,
    ):
        super().__init__()
        self.config = config
        self.unit_text_embeddings = unit_text_embeddings
        self.patch_px = patch_px
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("std", torch.ones(in_channels))
        self.register_buffer("codebook", torch.zeros(config.codebook_size, config.dim))
        self.register_buffer("share", torch.ones(()))
        self.down = nn.Linear(in_channels, config.dim)
        self.pixel_readout = nn.Linear(config.dim, 3 * patch_px**2)
        self.text_readout = nn.Linear(config.dim, embedding_dim)
        if config.address == "table":
            self.register_buffer("address_table", torch.zeros(config.codebook_size, embedding_dim))

    @property
    def is_fitted(self) -> bool:
        """Whether the codebook was ever filled."""
        return bool(self.codebook.any())

    def project(self, x: Tensor) -> Tensor:
        """The adapter: (B, C, h, w) float -> (B, d, h, w) float32, before quantisation; ends in `constrained`.

        Without a gradient, a cell's result depends on its own input alone, bit for bit.
        """
        with float32_on(x.device):
            weight = self.down.weight / self.std  # whitening folded in
            bias = self.down.bias - weight @ self.mean
            rows = x.float().permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, C)
            projected = self.constrained(_affine(rows, weight, bias))
        batch, _, height, width = x.shape
        return projected.view(batch, height, width, -1).permute(0, 3, 1, 2)  # (B, d, h, w)

    def constrained(self, rows: Tensor) -> Tensor:
        """(N, d) -> (N, d): to where entries can lie, unit norm for cosine levels, the grid's range for scalar ones."""
        if self.config.fsq:
            return bound(rows)
        return F.normalize(rows, dim=1) if self.config.distance == "cosine" else rows

    def assign(self, projected: Tensor) -> Tensor:
        """(B, d, h, w) -> ids (B, h, w) int64."""
        rows = projected.permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, d)
        with float32_on(rows.device):
            return nearest(rows, self.codebook).view(projected.shape[0], *projected.shape[2:])

    def look_up(self, ids: Tensor) -> Tensor:
        """Ids (B, h, w) -> codes (B, d, h, w) float32."""
        return F.embedding(ids, self.codebook).permute(0, 3, 1, 2)

    def pixels_of(self, codes: Tensor) -> Tensor:
        """Codes (B, d, h, w) -> pixels (B, 3, p h, p w) at the level's scale, as differences from the coarser image."""
        batch, _, height, width = codes.shape
        with float32_on(codes.device):
            rows = codes.float().permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, d)
            pixels = _affine(rows, self.pixel_readout.weight, self.pixel_readout.bias)
        return F.pixel_shuffle(pixels.view(batch, height, width, -1).permute(0, 3, 1, 2), self.patch_px)

    def text_embeddings(self) -> Tensor:
        """(K, D) float32: the place of every entry in the text space, of unit norm where levels say the whole."""
        return self.address_table if self.config.address == "table" else self.linear_text_embeddings()

    def linear_text_embeddings(self) -> Tensor:
        """(K, D) float32: the same by `text_readout`, also where there is a table."""
        with float32_on(self.codebook.device):
            return self._as_text_embedding(self.text_readout(self.codebook))

    def with_dense(self, codes: Tensor) -> Tensor:
        """Codes (B, d, h, w), also such as no entry has -> their addresses (B, D, h, w), by `text_readout`."""
        with float32_on(codes.device):
            return self._as_text_embedding(self.text_readout(codes.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    def _as_text_embedding(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=-1) if self.unit_text_embeddings else rows


def float32_on(device: torch.device) -> torch.autocast:
    """Autocast off: a training loop's precision must change neither ids nor the linear reconstruction."""
    return torch.autocast(device.type, enabled=False)


def _affine(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, C) -> (N, T), for ids by the slower product whose rows do not depend on their neighbours."""
    if torch.is_grad_enabled() and weight.requires_grad:
        return F.linear(rows, weight, bias)
    return affine_rows(rows, weight.T, bias)

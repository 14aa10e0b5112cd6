"""One level of the pyramid: whiten -> adapter -> nearest entry -> read-outs.

The adapter projects what the level reads to a few dimensions, where the nearest codebook entry is taken. Two linear
read-outs of an entry follow: `pixel_readout` gives the pixels of a cell at the level's scale, `text_readout` its text
embedding, a vector in the space that images and words share.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.quantizer.codebooks import CodebookKind, Learned
from pyramid_tokenizer.quantizer.nearest import affine_cells, nearest
from pyramid_tokenizer.quantizer.regrid import Part, Product, depth_to_space, times_parts
from pyramid_tokenizer.tokens.presence import keep_present


class LevelQuantizer(nn.Module):
    """One level: whiten -> adapter -> nearest entry -> read-outs.

    Args:
        in_channels: C, channels of the level's input: what it reads of the backbone and of other levels.
        codebook_size: K, entries of the codebook.
        dim: d, dimensions of an entry.
        patch_px: p, side of the patch of pixels that one cell decodes to, at the level's scale.
        embedding_dim: D, dimensions of the space that images and words share.
        kind: Where entries may lie, how they are fitted, and whether training may move them.
        semantic_weight: Part of the fit's target that is semantic and not pixels, in [0, 1].
        unit_text_embeddings: Whether text embeddings are unit vectors; otherwise they are terms of a sum over levels.

    Example:
        >>> from pyramid_tokenizer.quantizer.regrid import InputPart
        >>> level = LevelQuantizer(in_channels=12, codebook_size=16, dim=4, patch_px=8, embedding_dim=32)
        >>> _ = torch.nn.init.normal_(level.codebook)
        >>> ids = level.assign(level.project([InputPart(torch.rand(2, 12, 3, 5), own=8, wanted=8)]))
        >>> ids.shape, level.look_up(ids).shape, level.pixels_of(level.look_up(ids)).shape
        (torch.Size([2, 3, 5]), torch.Size([2, 4, 3, 5]), torch.Size([2, 3, 24, 40]))
    """

    mean: Tensor
    std: Tensor
    codebook: Tensor
    text_weight: Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        codebook_size: int,
        dim: int,
        patch_px: int,
        embedding_dim: int,
        kind: CodebookKind = Learned(),  # noqa: B008 (frozen)
        semantic_weight: float = 0.0,
        unit_text_embeddings: bool = False,
    ):
        super().__init__()
        self.codebook_size, self.dim, self.patch_px, self.embedding_dim = codebook_size, dim, patch_px, embedding_dim
        self.kind, self.semantic_weight = kind, semantic_weight
        self.unit_text_embeddings = unit_text_embeddings
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("std", torch.ones(in_channels))
        self.register_buffer("codebook", torch.zeros(codebook_size, dim))
        # how much the level's text embeddings count in an image's, set by the fit
        self.register_buffer("text_weight", torch.ones(()))
        self.adapter = nn.Linear(in_channels, dim)
        self.pixel_readout = nn.Linear(dim, 3 * patch_px**2)
        self.text_readout = nn.Linear(dim, embedding_dim)

    @property
    def is_fitted(self) -> bool:
        """Whether the codebook was ever filled."""
        return bool(self.codebook.any())

    def project(self, parts: Sequence[Part]) -> Tensor:
        """Projects the level's input, C channels in all, to the space of its entries: (B, d, h, w) float32.

        Without a gradient, a cell's result depends on its own input alone, bit for bit.
        """
        return self.constrain(self.linear(parts))

    def linear(self, parts: Sequence[Part | Product]) -> Tensor:
        """The linear part of `project`, whitening and adapter: (B, d, h, w) float32."""
        with float32_on(self.codebook.device):
            weight = self.adapter.weight / self.std  # whitening folded in
            return times_parts(parts, weight, self.adapter.bias - weight @ self.mean)

    def constrain(self, projected: Tensor) -> Tensor:
        """The other part of `project`: brings vectors to where entries can lie, (B, d, h, w) float32 -> the same."""
        batch, _, height, width = projected.shape
        with float32_on(projected.device):
            # contiguous for every batch: the order in which a norm is summed depends on the layout
            rows = self.kind.constrain(projected.permute(0, 2, 3, 1).flatten(0, 2).contiguous())  # (B h w, d)
        return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def assign(self, projected: Tensor) -> Tensor:
        """Ids of the nearest entries: (B, d, h, w) -> (B, h, w) int64."""
        rows = projected.permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, d)
        with float32_on(rows.device):
            return nearest(rows, self.codebook).view(projected.shape[0], *projected.shape[2:])

    def look_up(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Codes of ids: (B, h, w) int64 -> (B, d, h, w) float32; zero where a mask (B, h, w) says that there is no token."""
        codes = F.embedding(ids if mask is None else ids.clamp(min=0), self.codebook).permute(0, 3, 1, 2)
        return keep_present(codes, mask)

    def pixels_of(self, codes: Tensor) -> Tensor:
        """What codes decode to at the level's scale: (B, d, h, w) -> (B, 3, p h, p w) float32.

        Where levels add up, these are differences from the image of the coarser levels.
        """
        with float32_on(codes.device):
            pixels = affine_cells(codes.float(), self.pixel_readout.weight, self.pixel_readout.bias)
        return depth_to_space(pixels, self.patch_px)

    def text_embeddings(self) -> Tensor:
        """The text embedding of every entry: (K, D) float32, of unit norm if `unit_text_embeddings`."""
        with float32_on(self.codebook.device):
            return self._read_text(self.codebook)

    def text_embeddings_of(self, codes: Tensor) -> Tensor:
        """Text embeddings of any vectors in the space of entries: (B, d, h, w) -> (B, D, h, w) float32."""
        with float32_on(codes.device):
            return self._read_text(codes.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _read_text(self, codes: Tensor) -> Tensor:
        """(..., d) -> (..., D)."""
        rows = self.text_readout(codes)
        return F.normalize(rows, dim=-1) if self.unit_text_embeddings else rows


def float32_on(device: torch.device) -> torch.autocast:
    """Switches autocast off: a training loop's precision must change neither ids nor the linear reconstruction."""
    return torch.autocast(device.type, enabled=False)

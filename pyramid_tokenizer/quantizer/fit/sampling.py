"""A bounded random sample of the cells of one level, with what each cell should say of pixels and meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid, enlarge, semantic_target
from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.quantizer.nearest import gather_rows
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer

Samples = Callable[[], Iterable[tuple[FeaturePyramid, Tensor]]]
"""Gives, each time it is called, the same batches: features (with `dense` or `embedding`) and the images they came from."""


MAX_SAMPLE_FLOATS = 400_000_000
"""Cells kept for one level, times the floats of a cell: 1.6 GB (and as much again for a moment, to put them in order)."""


ROWS_PER_COPY = 1024
"""Rows that are copied at a time where a copy of all of them would double the memory."""


@dataclass
class _Cells:
    """A bounded random sample of cells: rows keep a random key each, and those with the smallest keys stay."""

    limit: int
    generator: torch.Generator
    parts: list[tuple[Tensor, ...]] = field(default_factory=list)
    keys: Tensor = field(default_factory=lambda: torch.zeros(0))
    bound: float = 1.0
    seen: int = 0

    def add(self, *columns: Tensor) -> None:
        self.seen += len(columns[0])
        keys, order = torch.rand(len(columns[0]), generator=self.generator).sort()
        few = min(self.limit, int((keys < self.bound).sum()))  # the others could not stay
        self.parts.append(tuple(column[order[:few].to(column.device)] for column in columns))
        self.keys = torch.cat([self.keys, keys[:few]])
        if len(self.keys) > 1.25 * self.limit:
            self.trim()

    def trim(self) -> tuple[Tensor, ...]:
        order = self.keys.argsort()[: self.limit]
        place = torch.full((len(self.keys),), -1).index_copy(0, order, torch.arange(len(order)))
        kept = tuple(column.new_empty(len(order), *column.shape[1:]) for column in self.parts[0])
        for places in place.split([len(part[0]) for part in self.parts]):
            for whole, column in zip(kept, self.parts.pop(0), strict=True):  # popped: freed as soon as it was copied
                for to, rows in zip(places.split(ROWS_PER_COPY), column.split(ROWS_PER_COPY), strict=True):
                    whole[to[to >= 0].to(whole.device)] = rows[(to >= 0).to(rows.device)]
        self.parts, self.keys = [kept], self.keys[order]
        if len(order) == self.limit:
            self.bound = float(self.keys[-1])
        return kept


def sample_cells(
    quantizer: PyramidQuantizer,
    index: int,
    samples: Samples,
    wanted: int,
    generator: torch.Generator,
    *,
    projected: bool,
) -> _Cells:
    """Cells of one level: inputs (N, C) or their projections (N, d), pixels to paint (N, 3 p p), meaning (N, D)."""
    level = quantizer.level(index)
    width = level.config.dim if projected else level.down.in_features
    width += level.pixel_readout.out_features + level.text_readout.out_features
    cells = _Cells(min(wanted, MAX_SAMPLE_FLOATS // width), generator)
    for features, images in samples():
        codes: dict[int, Tensor] = {}
        ids: dict[int, Tensor] = {}
        for current, x in quantizer.inputs(features, codes):
            if current == index:
                pixels = _pixel_target(quantizer, index, codes, images.float())
                semantics = _semantic_residual(quantizer, index, ids, semantic_target(features, x))
                rows = _rows(level.project(x) if projected else x)
                cells.add(rows, _rows(F.pixel_unshuffle(pixels, quantizer.patch_px)), _rows(semantics))
                break
            ids[current] = quantizer.level(current).assign(quantizer.level(current).project(x))
            codes[current] = quantizer.level(current).look_up(ids[current])
    if not cells.seen:
        raise DataError(
            f"expected at least one batch of images for level {index}, got none: check the image source; it is read once "
            "per level, so give a list or a function that reads it anew, not an iterator"
        )
    if cells.seen < level.config.codebook_size:
        raise DataError(
            f"expected at least {level.config.codebook_size} cells for level {index}, got {cells.seen}: "
            "give more images or a smaller codebook (20 to 50 cells per code are a good number)"
        )
    return cells


def _pixel_target(quantizer: PyramidQuantizer, index: int, codes: dict[int, Tensor], images: Tensor) -> Tensor:
    """The images at the level's scale, less the image of the coarser levels where levels build on it."""
    scale = quantizer.strides[index] // quantizer.patch_px
    target = F.avg_pool2d(images, scale) if scale > 1 else images
    if quantizer.config.composition == "residual" and index > 0:
        image = quantizer.linear_reconstructions([codes[i] for i in range(index)])[-1]
        target = target - quantizer.coarser(image, index)
    return target


def _semantic_residual(quantizer: PyramidQuantizer, index: int, ids: dict[int, Tensor], semantics: Tensor) -> Tensor:
    """The text-aligned map (B, D, h, w), less the coarser levels' addresses where levels build on them."""
    if quantizer.config.semantics == "whole" or index == 0:
        return semantics
    said = gather_rows([quantizer.level(i).text_embeddings() for i in range(index)], [ids[i] for i in range(index)])
    return semantics - enlarge(said, quantizer.strides[index - 1] // quantizer.strides[index])


def _rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)  # (B, C, h, w) -> (B h w, C)

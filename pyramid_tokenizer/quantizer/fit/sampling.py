"""A bounded random sample of the cells of one level: their inputs, and the pixels and text embeddings to predict."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid, semantic_target
from pyramid_tokenizer.errors import DataError, TooFewCellsError
from pyramid_tokenizer.quantizer.fit.kept import Samples
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.quantizer.regrid import join_parts

MAX_SAMPLE_FLOATS = 400_000_000
"""Floats kept for one level, over all its cells: 1.6 GB, and as much again for a moment to put them in order."""


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
    """Draws cells of one level from a source of features and images.

    Args:
        quantizer: The levels before this one, in the order of computing, are fitted.
        index: The level.
        samples: Read once, up to its end.
        wanted: Cells to keep, at most; fewer are kept where they would not fit `MAX_SAMPLE_FLOATS`.
        generator: Draws the cells.
        projected: Whether the level's adapter is applied to its inputs.

    Returns:
        Three columns with one row a cell: inputs (N, C), or their projections (N, d); pixel targets (N, 3 p p); semantic
        targets (N, D).

    Raises:
        DataError: No images.
        TooFewCellsError: Fewer cells than the level has codes.
    """
    level = quantizer.level(index)
    width = level.dim if projected else level.adapter.in_features
    width += level.pixel_readout.out_features + level.embedding_dim
    cells = _Cells(min(wanted, MAX_SAMPLE_FLOATS // width), generator)
    num_images = 0
    for features, images in samples():
        num_images += len(images)
        codes = _codes_before(quantizer, index, features)
        parts = quantizer.level_input(index, features, codes)
        found = level.project(parts) if projected else join_parts(parts)
        semantics = semantic_target(features, found.shape[-2:])
        pixels, semantics = quantizer.composition.targets(
            quantizer, index, codes, _at_scale(quantizer, index, images.float()), semantics
        )
        cells.add(_rows(found), _rows(F.pixel_unshuffle(pixels, level.patch_px)), _rows(semantics))
    if not cells.seen:
        raise DataError(f"expected at least one batch of images for level {index}, got none: check the image source")
    if cells.seen < level.codebook_size:
        enough = math.ceil(level.codebook_size * num_images / cells.seen)
        raise TooFewCellsError(
            f"expected at least {level.codebook_size} cells for level {index}, got {cells.seen} in {num_images} images or "
            f"crops: give at least {enough} of that size, or a smaller codebook (20 to 50 cells per code are a good number)"
        )
    return cells


def _codes_before(quantizer: PyramidQuantizer, index: int, features: FeaturePyramid) -> dict[int, Tensor]:
    """Codes (B, d_l, h_l, w_l) of the levels that are computed before level `index`."""
    codes: dict[int, Tensor] = {}
    for current in quantizer.order[: quantizer.order.index(index)]:
        level = quantizer.level(current)
        codes[current] = level.look_up(level.assign(level.project(quantizer.level_input(current, features, codes))))
    return codes


def _at_scale(quantizer: PyramidQuantizer, index: int, images: Tensor) -> Tensor:
    """The images (B, 3, H, W) at the scale of a level, where each of its cells is a patch of its `patch_px`."""
    scale = quantizer.scale(index)
    return F.avg_pool2d(images, scale) if scale > 1 else images


def _rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)  # (B, C, h, w) -> (B h w, C)

"""The closed-form start: statistics, reduced-rank regression and k-means give working ids in minutes, without a gradient.

Level by level, in the quantizer's own order: sample cells, whiten their inputs, find the few directions that predict what
the level has to say (pixels and meaning, mixed by `semantic_weight`), run k-means there, and read pixels and meaning back
from the codes by ridge regression.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.codebook import kmeans, nearest
from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.pyramid import FeaturePyramid
from pyramid_tokenizer.quantizer import LevelQuantizer, PyramidQuantizer
from pyramid_tokenizer.regression import explained, reduced_rank, ridge, whitening

Samples = Callable[[], Iterable[tuple[FeaturePyramid, Tensor]]]
"""Gives, each time it is called, the same batches: features (with `dense` or `embedding`) and the images they came from."""

MAX_SAMPLE_FLOATS = 400_000_000
"""Cells kept for one level, times the floats of a cell: 1.6 GB."""
READ_OUT_RIDGE = 1e-4
"""Codes are few and well conditioned: their read-outs need next to no ridge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelReport:
    """How the fit of one level went; shares are of the variance of the sampled cells."""

    level: int
    """0 = coarsest."""
    vectors: int
    """Cells that the codebook was fitted on."""
    pixels_explained: float
    """Share of what the level had to paint that its codes paint."""
    meaning_explained: float
    """Share of the text-aligned map that its codes give."""
    quantisation_loss: float
    """Share of the projections' variance that k-means loses."""


@dataclass
class _Cells:
    """A bounded random sample of cells: rows keep a random key each, and those with the smallest keys stay."""

    limit: int
    generator: torch.Generator
    kept: tuple[Tensor, ...] = ()
    keys: Tensor = field(default_factory=lambda: torch.zeros(0))
    bound: float = 1.0

    def add(self, *columns: Tensor) -> None:
        keys, order = torch.rand(len(columns[0]), generator=self.generator).sort()
        few = min(self.limit, int((keys < self.bound).sum()))  # the others could not stay
        columns = tuple(column[order[:few].to(column.device)] for column in columns)
        if self.kept:
            columns = tuple(torch.cat([old, new]) for old, new in zip(self.kept, columns, strict=True))
        self.kept, self.keys = columns, torch.cat([self.keys, keys[:few]])
        if len(self.keys) > 1.25 * self.limit:
            self.trim()

    def trim(self) -> tuple[Tensor, ...]:
        order = self.keys.argsort()[: self.limit]
        self.kept, self.keys = tuple(column[order.to(column.device)] for column in self.kept), self.keys[order]
        if len(order) == self.limit:
            self.bound = float(self.keys[-1])
        return self.kept


@torch.no_grad()
def fit_quantizer(
    quantizer: PyramidQuantizer, samples: Samples, *, vectors_per_code: int = 64, iterations: int = 25, seed: int = 0
) -> list[LevelReport]:
    """Fills whitening, adapters, codebooks and read-outs of every level.

    Args:
        quantizer: Changed in place.
        samples: Called once per level; see `Samples`.
        vectors_per_code: Cells to sample per codebook entry.
        iterations: Lloyd steps of k-means.
        seed: Of the cells drawn and of k-means.

    Returns:
        One report per level, coarse to fine.

    Raises:
        DataError: No images (also: only at the first of the calls of `samples`), images that are all alike, fewer cells
            than codes, or features without anything aligned to text.
        ImageValueError: An image size that is no multiple of the coarsest stride.

    Example:
        >>> from pyramid_tokenizer.backbones import ToyBackbone
        >>> from pyramid_tokenizer.config import LevelConfig, QuantizerConfig
        >>> levels = (LevelConfig(stride=8, maps=(2,), codebook_size=16, dim=6),)
        >>> tower = ToyBackbone()
        >>> quantizer = PyramidQuantizer(
        ...     QuantizerConfig(levels=levels), channels=tower.channels, strides=tower.strides, embedding_dim=16
        ... )
        >>> images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> reports = fit_quantizer(quantizer, lambda: [(tower(images, aligned=True), images)])
        >>> reports[0].vectors, reports[0].pixels_explained > 0.2
        (32, True)
    """
    generator = torch.Generator().manual_seed(seed)
    reports = [
        _fit_level(quantizer, index, samples, vectors_per_code, iterations, generator) for index in quantizer.order
    ]
    shares = torch.tensor([max(report.meaning_explained, 1e-3) for report in sorted(reports, key=lambda r: r.level)])
    for index, share in enumerate(shares / shares.sum()):
        quantizer.level(index).share.fill_(float(share))
    return sorted(reports, key=lambda report: report.level)


def _fit_level(
    quantizer: PyramidQuantizer,
    index: int,
    samples: Samples,
    vectors_per_code: int,
    iterations: int,
    generator: torch.Generator,
) -> LevelReport:
    level = quantizer.level(index)
    x, pixels, meaning = _sample_cells(quantizer, index, samples, vectors_per_code, generator)
    mean, std = whitening(x)
    level.mean.copy_(mean)
    level.std.copy_(std)
    x = (x - mean) / std
    down = reduced_rank(x, _target(x, pixels, meaning, level.config.semantic_weight), level.config.dim)
    projected = x @ down.weight + down.bias
    # one factor for all directions keeps distances in proportion and gives the decoder inputs of unit scale
    scale = 1 / projected.square().mean().sqrt().clamp(min=1e-8)
    level.down.weight.copy_((down.weight * scale).T)
    level.down.bias.copy_(down.bias * scale)
    projected = projected * scale
    spherical = level.config.distance == "cosine"
    if spherical:
        projected = F.normalize(projected, dim=1)
    level.codebook.copy_(
        kmeans(projected, level.config.codebook_size, iterations=iterations, spherical=spherical, generator=generator)
    )
    if not level.is_fitted:
        raise DataError(f"expected images that differ, got cells of level {index} that are all alike: check the images")
    codes = level.codebook[nearest(projected, level.codebook)]
    paint, align = fit_read_outs(level, codes, pixels, meaning)
    loss = (projected - codes).square().sum() / (projected - projected.mean(0)).square().sum().clamp(min=1e-12)
    return LevelReport(
        level=index, vectors=len(x), pixels_explained=paint, meaning_explained=align, quantisation_loss=float(loss)
    )


def fit_read_outs(level: LevelQuantizer, codes: Tensor, pixels: Tensor, meaning: Tensor) -> tuple[float, float]:
    """Fits `paint` and `align` of a level to codes (N, d), pixels (N, 3 p p) and meaning (N, D); the shares they explain.

    Args:
        level: Changed in place.
        codes: (N, d) float32, the codebook vectors of N cells.
        pixels: (N, 3 p p) float32, what each cell should paint.
        meaning: (N, D) float32, each cell's place in the text space.

    Returns:
        Shares of the variance of pixels and of meaning that codes explain.
    """
    shares = []
    for read_out, target in ((level.paint, pixels), (level.align, meaning)):
        fit = ridge(codes, target, share=READ_OUT_RIDGE)
        read_out.weight.copy_(fit.weight.T)
        read_out.bias.copy_(fit.bias)
        shares.append(explained(codes, target, fit))
    return shares[0], shares[1]


def _target(x: Tensor, pixels: Tensor, meaning: Tensor, semantic_weight: float) -> Tensor:
    """What the level should say: pixels and meaning, each of unit total variance, mixed by the weight."""
    parts = []
    for weight, part in ((1 - semantic_weight, pixels), (semantic_weight, meaning)):
        if weight > 0:
            centred = part - part.mean(0)
            parts.append(centred * math.sqrt(weight) / centred.square().sum(1).mean().sqrt().clamp(min=1e-8))
    return torch.cat(parts, 1)


def _sample_cells(
    quantizer: PyramidQuantizer, index: int, samples: Samples, vectors_per_code: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Cells of one level: inputs (N, C), pixels to paint (N, 3 p p), meaning (N, D)."""
    level = quantizer.level(index)
    width = level.down.in_features + level.paint.out_features + level.align.out_features
    limit = min(vectors_per_code * level.config.codebook_size, MAX_SAMPLE_FLOATS // width)
    cells = _Cells(limit, generator)
    for features, images in samples():
        codes: dict[int, Tensor] = {}
        for current, x in quantizer.inputs(features, codes):
            if current == index:
                pixels = _pixels_to_paint(quantizer, index, codes, images.float())
                cells.add(
                    _rows(x), _rows(F.pixel_unshuffle(pixels, quantizer.patch_px)), _rows(meaning_at(features, x))
                )
                break
            codes[current] = quantizer.level(current).look_up(
                quantizer.level(current).assign(quantizer.level(current).project(x))
            )
    kept = cells.trim()
    if not kept:
        raise DataError(
            f"expected at least one batch of images for level {index}, got none: check the image source; it is read once "
            "per level, so give a list or a function that reads it anew, not an iterator"
        )
    if len(kept[0]) < level.config.codebook_size:
        raise DataError(
            f"expected at least {level.config.codebook_size} cells for level {index}, got {len(kept[0])}: "
            "give more images or a smaller codebook (20 to 50 cells per code are a good number)"
        )
    return kept


def _pixels_to_paint(quantizer: PyramidQuantizer, index: int, codes: dict[int, Tensor], images: Tensor) -> Tensor:
    """The images at the level's scale, less the picture of the coarser levels where levels build on it."""
    scale = quantizer.strides[index] // quantizer.patch_px
    target = F.avg_pool2d(images, scale) if scale > 1 else images
    if quantizer.config.composition == "residual" and index > 0:
        picture = quantizer.sketches([codes[i] for i in range(index)])[-1]
        target = target - quantizer.coarser(picture, index)
    return target


def meaning_at(features: FeaturePyramid, like: Tensor) -> Tensor:
    """The tower's text-aligned map on the grid of `like`: (B, D, h, w), unit vectors.

    A tower without such a map gives its image embedding at every cell: codes then learn the embedding of the images that
    they tend to appear in.

    Args:
        features: Of a batch, made with `aligned=True`.
        like: (B, any, h, w), a map of the wanted grid.

    Raises:
        DataError: The features have neither a dense map nor an embedding.
    """
    if features.dense is not None:
        return F.normalize(
            F.interpolate(features.dense.float(), like.shape[-2:], mode="bilinear", align_corners=False), dim=1
        )
    if features.embedding is None:
        raise DataError(
            "expected features with a dense map or an embedding, got neither: call the backbone with aligned=True"
        )
    return F.normalize(features.embedding.float(), dim=1)[..., None, None].expand(-1, -1, *like.shape[-2:])


def _rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)  # (B, C, h, w) -> (B h w, C)

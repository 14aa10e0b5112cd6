"""The gradient-free fit: statistics, reduced-rank regression and k-means give working ids in minutes.

Level by level, in the quantizer's own order: sample cells, whiten their inputs, find the few directions that predict the
level's targets best (pixels and text embeddings, mixed by `semantic_weight`), fit the codebook's entries there, and fit
linear read-outs of pixels and text embeddings to the codes by ridge regression.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyramid_tokenizer.checks.devices import exact_float32
from pyramid_tokenizer.checks.finite import require_finite
from pyramid_tokenizer.errors import DataError, NotFittedError, TooFewCellsError
from pyramid_tokenizer.quantizer.fit.image_codes import fit_embedding
from pyramid_tokenizer.quantizer.fit.kept import KeptSamples, Samples
from pyramid_tokenizer.quantizer.fit.progress import FitProgress, Progress, stage_sizes
from pyramid_tokenizer.quantizer.fit.regression import explained, reduced_rank, ridge, whitening
from pyramid_tokenizer.quantizer.fit.sampling import sample_cells
from pyramid_tokenizer.quantizer.level import LevelQuantizer
from pyramid_tokenizer.quantizer.nearest import nearest
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer

ITERATIONS = 10
"""Steps of k-means. Measured on the bundled backbone's finest level (1,024 entries, 64 vectors each): of the variance of vectors
that were not fitted on, 31.43 % is lost after 10 steps and 31.34 % after 25."""


READ_OUT_RIDGE = 1e-4
"""Codes are few and well conditioned: their read-outs need next to no ridge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelReport:
    """How the fit of one level went, measured on the sampled cells."""

    level: int
    """0 = coarsest."""
    vectors: int
    """Cells that the codebook was fitted on."""
    pixels_explained: float
    """Share of the variance of the level's pixel targets that its codes explain by their linear read-out."""
    semantics_explained: float
    """Share of the variance of the level's semantic targets that its codes explain by their linear read-out."""
    quantisation_loss: float
    """Share of the variance of the projections that is lost when they are replaced by their nearest codes."""


@torch.no_grad()
def fit_quantizer(  # noqa: PLR0913
    quantizer: PyramidQuantizer,
    samples: Samples,
    *,
    vectors_per_code: int = 64,
    iterations: int = ITERATIONS,
    seed: int = 0,
    keep_adapters: bool = False,
    first_level: int = 0,
    progress: Progress | None = None,
    num_batches: int | None = None,
) -> list[LevelReport]:
    """Fits whitening, adapters, codebooks and read-outs of every level, then the map to image embeddings.

    Args:
        quantizer: Changed in place; as it was when anything goes wrong.
        samples: See `Samples`. Called once: what it gives is kept in memory, or in temporary files, until the fit ends.
        vectors_per_code: Cells to sample per codebook entry.
        iterations: Steps of k-means.
        seed: Draws the cells and starts k-means.
        keep_adapters: Whether whitening and adapters stay, so that a trained decoder still understands the codes; k-means
            then starts from the present entries, and the grids of `fsq` levels stay.
        first_level: Coarser levels, which are fitted already, stay as they are, and so does the map to image embeddings: it is
            to add detail levels to a fitted quantizer.
        progress: See `Progress`; None for nothing.
        num_batches: How many batches `samples` gives, for `progress`; None where only reading them tells.

    Returns:
        One report per level that was fitted, coarse to fine.

    Raises:
        DataError: No images, images that are all alike, features without text-aligned outputs, or of fewer directions than
            an `fsq` level has, and numbers of a sample or of its statistics that are NaN or infinite.
        TooFewCellsError: A level has fewer cells, or fewer different ones, than codes.
        ConfigError, NotFittedError: `progress` cannot be called; `keep_adapters` of a quantizer that was never fitted, or a
            `first_level` behind one.
        ImageValueError: An image size that is no multiple of the coarsest stride.

    Example:
        >>> from pyramid_tokenizer.backbones import ToyBackbone
        >>> from pyramid_tokenizer.config import LevelConfig, QuantizerConfig
        >>> from pyramid_tokenizer.quantizer.build import build_quantizer
        >>> levels = (LevelConfig(stride=8, maps=(2,), codebook_size=16, dim=6),)
        >>> backbone = ToyBackbone()
        >>> quantizer = build_quantizer(
        ...     QuantizerConfig(levels=levels), channels=backbone.channels, strides=backbone.strides, embedding_dim=16
        ... )
        >>> images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> reports = fit_quantizer(quantizer, lambda: [(backbone(images, with_dense=True), images)])
        >>> reports[0].vectors, reports[0].pixels_explained > 0.2
        (32, True)
    """
    if keep_adapters and not quantizer.is_fitted:
        raise NotFittedError("expected fitted codebooks to refit, got empty ones: fit without keep_adapters first")
    order = [index for index in quantizer.order if index >= first_level]
    if not all(quantizer.level(index).is_fitted for index in range(first_level)):
        raise NotFittedError(f"expected fitted levels before level {first_level}, got empty ones: fit them all")
    generator = torch.Generator().manual_seed(seed)
    before = copy.deepcopy(quantizer.state_dict())
    reports = []
    shown = FitProgress(progress, sizes=stage_sizes(len(order)), num_batches=num_batches)
    try:
        with (
            exact_float32(),
            KeptSamples(samples, maps={index for read in quantizer.reads for index in read.maps}) as kept,
        ):
            batches = shown.over(kept)
            for index in order:
                shown.begin(f"level {index}: cells" if reports else "backbone")
                cells = _projected_cells(quantizer, index, batches, vectors_per_code, generator, keep_adapters)
                level = quantizer.level(index)
                shown.begin(f"level {index}: k-means")
                reports.append(_fit_codebook(level, index, cells, iterations, generator, keep_adapters))
            reports.sort(key=lambda report: report.level)
            shown.begin("image embeddings")
            if not first_level:
                weights = quantizer.composition.text_weights([report.semantics_explained for report in reports])
                for index, weight in enumerate(weights):
                    quantizer.level(index).text_weight.fill_(weight)
                fit_embedding(quantizer, batches, iterations, generator, keep=keep_adapters)
        advice = "features are so large that the fit's statistics overflow; use another backbone"
        require_finite(quantizer.state_dict(), stage="the fitted quantizer", advice=advice, error=DataError)
        shown.end()
    except BaseException:
        quantizer.load_state_dict(before)
        raise
    return reports


def _projected_cells(
    quantizer: PyramidQuantizer,
    index: int,
    samples: Samples,
    vectors_per_code: int,
    generator: torch.Generator,
    keep_adapter: bool,
) -> tuple[Tensor, ...]:
    """Projections (N, d), pixel targets (N, 3 p p) and semantic targets (N, D) of cells; fits the adapter first."""
    level = quantizer.level(index)
    wanted = vectors_per_code * level.codebook_size
    if not keep_adapter:
        cells = sample_cells(quantizer, index, samples, wanted, generator, projected=False)
        x, pixels, semantics = cells.trim()
        _require_finite_sample(index, x, pixels, semantics)
        projected = _fit_adapter(level, index, x, pixels, semantics)
        if cells.limit >= min(wanted, cells.seen):
            return projected, pixels, semantics
        del cells, x, projected, pixels, semantics  # so wide that the sample was cut: the next one takes their place
    columns = sample_cells(quantizer, index, samples, wanted, generator, projected=True).trim()
    _require_finite_sample(index, *columns)
    return columns


def _require_finite_sample(index: int, *columns: Tensor) -> None:
    names: tuple[str, ...] = ("what the level reads", "its pixel targets", "its semantic targets")
    named: dict[str, Tensor] = dict(zip(names, columns, strict=True))
    advice = "look for NaN or infinity in images, backbone and the levels before this one"
    require_finite(named, stage=f"the sample of level {index}", advice=advice, error=DataError)


def _fit_adapter(level: LevelQuantizer, index: int, x: Tensor, pixels: Tensor, semantics: Tensor) -> Tensor:
    """Sets whitening and adapter; the projections (N, d) of `x` (N, C), which is whitened in place."""
    mean, std = whitening(x)
    level.mean.copy_(mean)
    level.std.copy_(std)
    x.sub_(mean).div_(std)
    fit = reduced_rank(x, _target(pixels, semantics, level.semantic_weight), level.dim)
    projected = x @ fit.weight + fit.bias
    scale = level.kind.adapter_scale(projected, level=index)
    level.adapter.weight.copy_((fit.weight * scale).T)
    level.adapter.bias.copy_(fit.bias * scale)
    return level.kind.constrain(projected * scale)


def _fit_codebook(
    level: LevelQuantizer,
    index: int,
    cells: tuple[Tensor, ...],
    iterations: int,
    generator: torch.Generator,
    keep_adapter: bool,
) -> LevelReport:
    projected, pixels, semantics = cells
    start = level.codebook if keep_adapter else None
    if level.kind.learned:
        _require_distinct(projected, level.codebook_size, index, refit=keep_adapter)
    entries = level.kind.fit_entries(
        projected, level.codebook_size, iterations=iterations, generator=generator, start=start
    )
    if not entries.any() or bool((projected == projected[0]).all()):
        raise DataError(f"expected images that differ, got cells of level {index} that are all alike: check the images")
    level.codebook.copy_(entries)
    codes = level.codebook[nearest(projected, level.codebook)]
    pixels_explained, semantics_explained = fit_read_outs(level, codes, pixels, semantics)
    loss = (projected - codes).square().sum() / (projected - projected.mean(0)).square().sum().clamp(min=1e-12)
    return LevelReport(
        level=index,
        vectors=len(codes),
        pixels_explained=pixels_explained,
        semantics_explained=semantics_explained,
        quantisation_loss=float(loss),
    )


def _require_distinct(projected: Tensor, count: int, index: int, *, refit: bool) -> None:
    """Raises TooFewCellsError for fewer different projections (N, d), of unit scale, than codes; rounding is no difference."""
    if len(projected[:: max(1, len(projected) // (2 * count))].mul(1e4).round().unique(dim=0)) >= count:
        return  # enough in a part of them
    distinct = len(projected.mul(1e4).round().unique(dim=0))
    if distinct < count:
        instead = (
            'or leave the codebooks as they are (finetune with codebooks="frozen")'
            if refit
            else "or a smaller codebook"
        )
        raise TooFewCellsError(
            f"expected at least {count} different cells for the {count} codes of level {index}, got {distinct} in "
            f"{len(projected)}: images are few and small, alike or flat; give others, {instead}"
        )


def fit_read_outs(level: LevelQuantizer, codes: Tensor, pixels: Tensor, semantics: Tensor) -> tuple[float, float]:
    """Fits `pixel_readout` and `text_readout` of a level to its targets.

    Args:
        level: Changed in place.
        codes: (N, d) float32, the codebook vectors of N cells.
        pixels: (N, 3 p p) float32, pixel targets of the cells.
        semantics: (N, D) float32, semantic targets of the cells.

    Returns:
        Shares of the variance of pixel and semantic targets that codes explain.
    """
    shares = []
    for read_out, target in ((level.pixel_readout, pixels), (level.text_readout, semantics)):
        fit = ridge(codes, target, share=READ_OUT_RIDGE)
        read_out.weight.copy_(fit.weight.T)
        read_out.bias.copy_(fit.bias)
        shares.append(explained(codes, target, fit))
    return shares[0], shares[1]


def _target(pixels: Tensor, semantics: Tensor, semantic_weight: float) -> Tensor:
    """Pixel and semantic targets side by side, each of unit total variance times its weight: (N, up to 3 p p + D)."""
    parts = []
    for weight, part in ((1 - semantic_weight, pixels), (semantic_weight, semantics)):
        if weight > 0:
            centred = part - part.mean(0)
            parts.append(centred * math.sqrt(weight) / centred.square().sum(1).mean().sqrt().clamp(min=1e-8))
    return torch.cat(parts, 1)

"""The gradient-free start: statistics, reduced-rank regression and k-means give working ids in minutes, without a gradient.

Level by level, in the quantizer's own order: sample cells, whiten their inputs, find the few directions that predict what
the level has to say (pixels and meaning, mixed by `semantic_weight`), run k-means there (or bring every direction to the
scale of the grid of `fsq`), and read pixels and meaning back from the codes by ridge regression.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.errors import DataError, NotFittedError
from pyramid_tokenizer.quantizer.codebooks import grid
from pyramid_tokenizer.quantizer.fit.kmeans import kmeans
from pyramid_tokenizer.quantizer.fit.regression import explained, reduced_rank, ridge, whitening
from pyramid_tokenizer.quantizer.fit.sampling import ROWS_PER_COPY, Samples, sample_cells
from pyramid_tokenizer.quantizer.nearest import nearest
from pyramid_tokenizer.quantizer.pyramid import LevelQuantizer, PyramidQuantizer

LEAST_SPREAD = 1e-4
"""Deviation of a direction, as a share of the largest, below which it is rounding and not worth a dimension of a grid."""


PRIOR_CELLS = 2.0
"""Weight of the linear address beside the mean of an entry's own cells."""


EMBEDDING_RIDGE = 1e-3
"""Of the map to image embeddings, whose samples are images and not cells. Measured on an unfinished backbone of tiny-v1
(98 names, 160 px): 35.2, 35.6 and 33.7 % from tokens at 1e-4, 1e-3 and 1e-2, 32.2 % at 1e-1, 34.1 % without the map."""


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
    semantics_explained: float
    """Share of what it had to say of the text-aligned map that its codes give."""
    quantisation_loss: float
    """Share of the projections' variance that their quantisation loses."""


@torch.no_grad()
def fit_quantizer(
    quantizer: PyramidQuantizer,
    samples: Samples,
    *,
    vectors_per_code: int = 64,
    iterations: int = 25,
    seed: int = 0,
    keep_adapters: bool = False,
) -> list[LevelReport]:
    """Fills whitening, adapters, codebooks and read-outs of every level.

    Args:
        quantizer: Changed in place; as it was when anything goes wrong.
        samples: Called once per level, once more for a level whose inputs are so wide that `MAX_SAMPLE_FLOATS` cut its
            sample (then for its projections alone), and once for the image embedding where that is fitted. See `Samples`.
        vectors_per_code: Cells to sample per codebook entry.
        iterations: Lloyd steps of k-means.
        seed: Of the cells drawn and of k-means.
        keep_adapters: Whitening and adapters stay, so that code coordinates keep their meaning for a trained decoder;
            k-means starts from the present entries, and the grids of `fsq` levels stay.

    Returns:
        One report per level, coarse to fine.

    Raises:
        DataError: No images (also: only at the first of the calls of `samples`), images that are all alike, fewer cells
            than codes, features without anything aligned to text, or of fewer directions than an `fsq` level has.
        NotFittedError: `keep_adapters` of a quantizer that was never fitted.
        ImageValueError: An image size that is no multiple of the coarsest stride.

    Example:
        >>> from pyramid_tokenizer.backbones import ToyBackbone
        >>> from pyramid_tokenizer.config import LevelConfig, QuantizerConfig
        >>> levels = (LevelConfig(stride=8, maps=(2,), codebook_size=16, dim=6),)
        >>> backbone = ToyBackbone()
        >>> quantizer = PyramidQuantizer(
        ...     QuantizerConfig(levels=levels), channels=backbone.channels, strides=backbone.strides, embedding_dim=16
        ... )
        >>> images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> reports = fit_quantizer(quantizer, lambda: [(backbone(images, with_dense=True), images)])
        >>> reports[0].vectors, reports[0].pixels_explained > 0.2
        (32, True)
    """
    if keep_adapters and not quantizer.is_fitted:
        raise NotFittedError("expected fitted codebooks to refit, got empty ones: fit without keep_adapters first")
    generator = torch.Generator().manual_seed(seed)
    before = copy.deepcopy(quantizer.state_dict())
    reports = []
    try:
        for index in quantizer.order:
            cells = _projected_cells(quantizer, index, samples, vectors_per_code, generator, keep_adapters)
            reports.append(_fit_codebook(quantizer.level(index), index, cells, iterations, generator, keep_adapters))
        reports.sort(key=lambda report: report.level)
        _set_shares(quantizer, reports)
        if quantizer.config.embedding == "linear":
            fit_embedding(quantizer, samples)
    except BaseException:
        quantizer.load_state_dict(before)
        raise
    return reports


def _set_shares(quantizer: PyramidQuantizer, reports: list[LevelReport]) -> None:
    """How much each level counts in a cell's place: of residual meaning all alike, else by what it explains."""
    shares = torch.tensor([max(report.semantics_explained, 1e-3) for report in reports])
    shares = torch.ones_like(shares) if quantizer.config.semantics == "residual" else shares / shares.sum()
    for index, share in enumerate(shares):
        quantizer.level(index).share.fill_(float(share))


def fit_embedding(quantizer: PyramidQuantizer, samples: Samples) -> None:
    """Fits `to_embedding`: from the mean place of an image's cells, as its ids give it, to the backbone's own embedding.

    Codes keep the common directions of meaning better than the rare ones; this gives the rare ones their weight back.

    Args:
        quantizer: With fitted levels; changed in place.
        samples: See `Samples`; called once.

    Raises:
        DataError: Features without an embedding.
    """
    places, wanted = [], []
    for features, _ in samples():
        if features.embedding is None:
            raise DataError("expected features with an image embedding, got none: call the backbone with aligned=True")
        places.append(quantizer.mean_text_embedding(quantizer.encode(features)))
        wanted.append(F.normalize(features.embedding.float(), dim=1))
    fit = ridge(torch.cat(places), torch.cat(wanted), share=EMBEDDING_RIDGE)
    quantizer.to_embedding.weight.copy_(fit.weight.T)
    quantizer.to_embedding.bias.copy_(fit.bias)


def _projected_cells(
    quantizer: PyramidQuantizer,
    index: int,
    samples: Samples,
    vectors_per_code: int,
    generator: torch.Generator,
    keep_adapter: bool,
) -> tuple[Tensor, ...]:
    """Cells of one level, by its adapter, which is fitted first: projections (N, d), pixels (N, 3 p p), meaning (N, D)."""
    level = quantizer.level(index)
    wanted = vectors_per_code * level.config.codebook_size
    if not keep_adapter:
        cells = sample_cells(quantizer, index, samples, wanted, generator, projected=False)
        x, pixels, semantics = cells.trim()
        projected = _fit_adapter(level, index, x, pixels, semantics)
        if cells.limit >= min(wanted, cells.seen):
            return projected, pixels, semantics
        del cells, x, projected, pixels, semantics  # so wide that the sample was cut: the next one takes their place
    return sample_cells(quantizer, index, samples, wanted, generator, projected=True).trim()


def _fit_adapter(level: LevelQuantizer, index: int, x: Tensor, pixels: Tensor, semantics: Tensor) -> Tensor:
    """Sets whitening and adapter; the projections (N, d) of `x` (N, C), which is whitened in place."""
    mean, std = whitening(x)
    level.mean.copy_(mean)
    level.std.copy_(std)
    x.sub_(mean).div_(std)
    down = reduced_rank(x, _target(x, pixels, semantics, level.config.semantic_weight), level.config.dim)
    projected = x @ down.weight + down.bias
    if level.config.fsq:
        scale = 1 / _spread(projected, index)
    else:
        # one factor for all directions keeps distances in proportion and gives the decoder inputs of unit scale
        scale = 1 / projected.square().mean().sqrt().clamp(min=1e-8)
    level.down.weight.copy_((down.weight * scale).T)
    level.down.bias.copy_(down.bias * scale)
    return level.constrained(projected * scale)


def _spread(projected: Tensor, index: int) -> Tensor:
    """(N, d) -> (d,): the deviation of each direction.

    Measured with the bundled backbone and the toy: the principal directions, uncorrelated as the regression gives them, each
    at unit deviation before `fsq.bound`, use 96 to 100 % of a grid; a factor of .6 to .8 explains .01 more of the pixels
    but uses 70 to 95 %, and a random rotation gains on neither.
    """
    spread = projected.std(0, correction=0)
    alive = int((spread > LEAST_SPREAD * spread.max()).sum())
    if alive < len(spread):
        raise DataError(
            f"expected images that differ in {len(spread)} directions at level {index}, as many as its fsq has, "
            f"got {alive}: check the images, or use fewer dimensions"
        )
    return spread


def _fit_codebook(
    level: LevelQuantizer,
    index: int,
    cells: tuple[Tensor, ...],
    iterations: int,
    generator: torch.Generator,
    keep_adapter: bool,
) -> LevelReport:
    projected, pixels, semantics = cells
    if level.config.fsq:
        entries = grid(level.config.fsq)
    else:
        entries = kmeans(
            projected,
            level.config.codebook_size,
            iterations=iterations,
            spherical=level.config.distance == "cosine",
            generator=generator,
            start=level.codebook if keep_adapter else None,
        )
    if not entries.any() or bool((projected == projected[0]).all()):
        raise DataError(f"expected images that differ, got cells of level {index} that are all alike: check the images")
    level.codebook.copy_(entries)
    ids = nearest(projected, level.codebook)
    codes = level.codebook[ids]
    pixel_readout, text_readout = fit_read_outs(level, codes, pixels, semantics)
    if level.config.address == "table":
        text_readout = fit_address_table(level, ids, semantics)
    loss = (projected - codes).square().sum() / (projected - projected.mean(0)).square().sum().clamp(min=1e-12)
    return LevelReport(
        level=index,
        vectors=len(codes),
        pixels_explained=pixel_readout,
        semantics_explained=text_readout,
        quantisation_loss=float(loss),
    )


def fit_read_outs(level: LevelQuantizer, codes: Tensor, pixels: Tensor, semantics: Tensor) -> tuple[float, float]:
    """Fits `pixel_readout` and `text_readout` of a level to codes (N, d), pixels (N, 3 p p) and meaning (N, D); the shares they explain.

    Args:
        level: Changed in place.
        codes: (N, d) float32, the codebook vectors of N cells.
        pixels: (N, 3 p p) float32, what each cell should paint.
        meaning: (N, D) float32, each cell's place in the text space.

    Returns:
        Shares of the variance of pixels and of meaning that codes explain.
    """
    shares = []
    for read_out, target in ((level.pixel_readout, pixels), (level.text_readout, semantics)):
        fit = ridge(codes, target, share=READ_OUT_RIDGE)
        read_out.weight.copy_(fit.weight.T)
        read_out.bias.copy_(fit.bias)
        shares.append(explained(codes, target, fit))
    return shares[0], shares[1]


def fit_address_table(level: LevelQuantizer, ids: Tensor, semantics: Tensor) -> float:
    """Sets each entry's address to the mean meaning of its cells, or its direction; the share of variance explained.

    `text_readout`, fitted before, stands in for entries with few cells, as `PRIOR_CELLS` cells of its own would.

    Args:
        level: Of `address` "table"; changed in place.
        ids: (N,) int64, the entries of N cells.
        meaning: (N, D) float32, what each cell has to say.
    """
    size = level.config.codebook_size
    sums = torch.zeros(size, semantics.shape[1], device=semantics.device).index_add_(0, ids, semantics)
    counts = torch.bincount(ids, minlength=size).unsqueeze(1)
    rows = (sums + PRIOR_CELLS * level.linear_text_embeddings()) / (counts + PRIOR_CELLS)
    level.address_table.copy_(F.normalize(rows, dim=1) if level.unit_text_embeddings else rows)
    means = sums / counts.clamp(min=1)
    centre = semantics.mean(0)
    total = sum(float((part - centre).square().sum()) for part in semantics.split(ROWS_PER_COPY))
    return float((counts * (means - centre).square()).sum()) / max(total, 1e-12)  # between clusters, of all


def _target(x: Tensor, pixels: Tensor, semantics: Tensor, semantic_weight: float) -> Tensor:
    """What the level should say: pixels and meaning, each of unit total variance, mixed by the weight."""
    parts = []
    for weight, part in ((1 - semantic_weight, pixels), (semantic_weight, semantics)):
        if weight > 0:
            centred = part - part.mean(0)
            parts.append(centred * math.sqrt(weight) / centred.square().sum(1).mean().sqrt().clamp(min=1e-8))
    return torch.cat(parts, 1)

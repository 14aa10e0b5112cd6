"""The nearest codebook entry of a vector, and rows of tables by ids; results do not depend on the rest of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.tokens.presence import keep_present, mask_of
from pyramid_tokenizer.tokens.splits import Presence

CELLS_PER_PRODUCT = 256
"""Cells per matrix product. Every product has this many (the last is padded), so that a cell's result does not depend on how
many others come with it: float sums differ between matrix shapes."""


SCORES_PER_PRODUCT = 2**20
"""Large codebooks are compared with fewer cells at a time: no more scores than these, which mostly stay in the processor's
cache. Measured on a CPU with 8,192 entries of 16 dimensions, beside a busy core: 60 ms for 8,192 vectors, and 80 ms with 256
cells at a time."""


OUTPUTS_PER_PRODUCT = 16
"""Every product gives a multiple of this many numbers for each cell. Measured with MKL on AVX-512: with 2 to 10 of them a cell's
sum also depended on its place in the product, for most cells; at multiples of 16 it never did."""


SCORES_PER_BLOCK = (16, 8)
"""Scores of entries are compared in blocks of 16, then the least ones of 8 blocks; entries are padded to whole blocks."""


_WHOLE: ContextVar[bool] = ContextVar("one product for all cells", default=False)


@contextmanager
def whole_products() -> Iterator[None]:
    """One product for all cells in this thread while this is open, instead of many of one fixed shape.

    Graphs for other runtimes are recorded like this: products of a fixed shape are as many as the image has cells, which a graph
    for all sizes cannot hold, and what they guarantee does not hold beyond torch's own matrix products.

    Example:
        >>> cells, weight = torch.rand(1, 3, 4, 5), torch.rand(2, 3)
        >>> with whole_products():
        ...     found = affine_cells(cells, weight)
        >>> torch.allclose(found, affine_cells(cells, weight))
        True
    """
    before = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(before)


def _is_whole() -> bool:
    """Whether one product has all cells; in a compiled graph it does, so that one graph holds for batches of all sizes."""
    return torch.compiler.is_compiling() or _WHOLE.get()


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the entry with the smallest Euclidean distance; the lowest index wins a tie.

    For unit-norm entries this is also the entry of the largest cosine. A vector's index depends neither on how many
    others come with it nor on its place among them.

    Args:
        vectors: (N, d) float, N >= 1.
        codebook: (K, d) float on the same device.

    Returns:
        (N,) int64 in [0, K).

    Example:
        >>> nearest(torch.tensor([[0.9, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist()
        [0, 1]
    """
    codebook = codebook.detach().float()
    # |v - c|^2 / 2 = |v|^2 / 2 - v.c + |c|^2 / 2, and the first term is the same for every entry
    if _is_whole():
        return torch.addmm(codebook.square().sum(1) / 2, vectors.detach().float(), -codebook.T).argmin(1)
    weight, bias = _whole_blocks(
        -codebook, codebook.square().sum(1) / 2, math.prod(SCORES_PER_BLOCK), fill=float("inf")
    )
    # One buffer for all products: fresh memory of this size can cost as much as the product that fills it.
    scores = weight.new_empty(len(weight), max(1, min(CELLS_PER_PRODUCT, SCORES_PER_PRODUCT // len(weight))))
    return by_cells(
        lambda part: _argmin(torch.addmm(bias, weight, part, out=scores), SCORES_PER_BLOCK),
        vectors.detach().float().T,
        cells=scores.shape[1],
    )


def affine_cells(cells: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear map of every cell, bit for bit the same for a cell whatever its neighbours and its place are.

    Where a gradient flows to the weight, it is the plain product, whose results may differ by rounding.

    Args:
        cells: (B, C, h, w) float32, of one cell or more. It is not copied where the memory has it as (C, B, h, w).
        weight: (T, C) float32, as of `torch.nn.Linear`.
        bias: (T,) float32; None for none.

    Returns:
        (B, T, h, w) float32, in memory (T, B, h, w).

    Example:
        >>> affine_cells(torch.tensor([[[[1.0]], [[2.0]]]]), torch.tensor([[1.0, 10.0]]), torch.tensor([0.5])).tolist()
        [[[[21.5]]]]
    """
    if _is_whole():
        found = torch.einsum("tc,bchw->bthw", weight, cells)
        return found if bias is None else found + bias.view(1, -1, 1, 1)
    columns = cells.transpose(0, 1).flatten(1)  # (C, B h w)
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if torch.is_grad_enabled() and weight.requires_grad:
        found = torch.addmm(bias.unsqueeze(1), weight, columns)
    else:
        wide, wide_bias = _whole_blocks(weight, bias, OUTPUTS_PER_PRODUCT, fill=0.0)
        found = by_cells(lambda part: torch.addmm(wide_bias, wide, part)[: len(bias)], columns)
    return found.unflatten(1, (len(cells), *cells.shape[2:])).transpose(0, 1)


def by_cells(function: Callable[[Tensor], Tensor], columns: Tensor, *, cells: int = CELLS_PER_PRODUCT) -> Tensor:
    """`function(columns)`, computed in products of one fixed shape.

    Args:
        function: Maps a contiguous (C, cells) to (..., cells), each column on its own.
        columns: (C, N), N >= 1.
        cells: How many columns a product has.

    Returns:
        (..., N).

    Example:
        >>> by_cells(lambda part: part.sum(0), torch.ones(3, 2000)).shape
        torch.Size([2000])
    """
    results = []
    for part in columns.split(cells, 1):
        padded = F.pad(part, (0, cells - part.shape[1])).contiguous()
        results.append(function(padded)[..., : part.shape[1]])
    return torch.cat(results, -1)


def _argmin(scores: Tensor, blocks: Sequence[int]) -> Tensor:
    """Index of each column's first smallest value: (K, N) -> (N,).

    By blocks, as the index of a minimum is slow on CPUs, and its value is not.
    """
    if not blocks:
        return scores.min(0).indices
    size, *larger = blocks
    found = scores.unflatten(0, (-1, size))  # (K / size, size, N)
    block = _argmin(found.amin(1), larger)  # (N,)
    within = found.gather(0, block.expand(1, size, -1)).squeeze(0)  # (size, N)
    return block * size + _argmin(within, ())


def _whole_blocks(weight: Tensor, bias: Tensor, outputs: int, *, fill: float) -> tuple[Tensor, Tensor]:
    """Zero rows below up to whole blocks of `outputs`, their bias `fill`: (T', C), (T', 1)."""
    missing = -len(bias) % outputs
    return F.pad(weight, (0, 0, 0, missing)).contiguous(), F.pad(bias, (0, missing), value=fill).unsqueeze(1)


def gather_rows(rows: Sequence[Tensor], ids: Sequence[Tensor], present: Presence = ()) -> Tensor:
    """The sum over levels of the rows that ids name, on the grid of the finest level given.

    With the weighted text embeddings (K_l, D) as `rows`, this is the text embedding of every cell; with their products with
    the embeddings of N words, (K_l, N), it is the words' scores. Both are linear, so the scores of summed embeddings equal
    the sums of scores.

    Args:
        rows: (K_l, C) float per level, coarse to fine; further levels than ids has are left out.
        ids: (B, h_l, w_l) int64 in [0, K_l) per level or for a prefix; each grid is a whole multiple of the one before.
        present: Masks of sparse levels; an absent token adds zero.

    Returns:
        (B, C, h, w) float; coarser grids are enlarged bilinearly.

    Example:
        >>> coarse, fine = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [0.25]])
        >>> gather_rows([coarse, fine], [torch.tensor([[[1]]]), torch.tensor([[[0, 1], [1, 1]]])])[0, 0].tolist()
        [[3.5, 3.25], [3.25, 3.25]]
    """
    total: Tensor | None = None
    for level, (table, level_ids) in enumerate(zip(rows, ids, strict=False)):
        mask = mask_of(present, level)
        found = F.embedding(level_ids if mask is None else level_ids.clamp(min=0), table).permute(0, 3, 1, 2)
        found = keep_present(found, mask)  # (B, C, h_l, w_l)
        if total is not None:
            total = enlarge(total, level_ids.shape[-1] // total.shape[-1])
        total = found if total is None else total + found
    if total is None:
        raise ValueError("expected ids of one level or more, got none")
    return total


def mean_row(rows: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over cells of the rows (K, D) that ids (B, h, w) name, zero for absent ones: (B, D)."""
    cells = ids.flatten(1)
    counts = torch.zeros(ids.shape[0], rows.shape[0], device=ids.device)
    once = torch.ones_like(cells, dtype=counts.dtype) if mask is None else mask.flatten(1).to(counts.dtype)
    counts.scatter_add_(1, cells if mask is None else cells.clamp(min=0), once)  # (B, K)
    return counts @ rows / cells.shape[1]

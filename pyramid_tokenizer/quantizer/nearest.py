"""The nearest codebook entry of a vector, and rows of tables by ids; results do not depend on the rest of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.features import enlarge

ROWS_PER_CHUNK = 256
"""Rows per matrix product. Every product has this many (the last is padded), so that a vector's id does not depend on how
many others come with it: float sums differ between matrix shapes. It also bounds memory at 256 x K floats, which mostly
stay in the processor's cache."""


COLUMNS_PER_BLOCK = 64
"""Scores of entries are compared in blocks of this many."""


COLUMNS_PER_PRODUCT = 16
"""Every product is a multiple of this many columns wide. Measured with MKL on AVX-512: at widths of 2 to 10 the sum of a row
also depends on the row's place in the product, for most rows; at multiples of 16 it never did."""


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
    weight, bias = _whole_blocks(-codebook.T, codebook.square().sum(1) / 2, COLUMNS_PER_BLOCK, fill=float("inf"))
    # One buffer for all products: fresh memory of this size can cost as much as the product that fills it.
    scores = weight.new_empty(ROWS_PER_CHUNK, weight.shape[1])
    return by_rows(lambda rows: _argmin(torch.addmm(bias, rows, weight, out=scores)), vectors.detach().float())


def affine_rows(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`rows @ weight.T + bias`, bit for bit the same for a row whatever its neighbours and its place are.

    Where a gradient flows to the weight, it is the plain and faster product, whose rows may differ by rounding.

    Args:
        rows: (N, C) float32, N >= 1.
        weight: (T, C) float32, as of `torch.nn.Linear`.
        bias: (T,) float32; None for none.

    Returns:
        (N, T) float32.

    Example:
        >>> affine_rows(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 10.0]]), torch.tensor([0.5])).tolist()
        [[21.5]]
    """
    if torch.is_grad_enabled() and weight.requires_grad:
        return F.linear(rows, weight, bias)
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    wide, wide_bias = _whole_blocks(weight.T, bias, COLUMNS_PER_PRODUCT, fill=0.0)
    return by_rows(lambda part: torch.addmm(wide_bias, part, wide)[:, : len(bias)], rows)


def by_rows(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`function(rows)`, computed in products of one fixed shape.

    Args:
        function: Maps (ROWS_PER_CHUNK, C) to (ROWS_PER_CHUNK, ...), each row on its own.
        rows: (N, C), N >= 1.

    Returns:
        (N, ...).

    Example:
        >>> by_rows(lambda part: part.sum(1), torch.ones(2000, 3)).shape
        torch.Size([2000])
    """
    results = []
    for start in range(0, len(rows), ROWS_PER_CHUNK):
        part = rows[start : start + ROWS_PER_CHUNK]
        missing = ROWS_PER_CHUNK - len(part)
        padded = torch.cat([part, part.new_zeros(missing, part.shape[1])]) if missing else part
        results.append(function(padded)[: len(part)])
    return torch.cat(results)


def _argmin(scores: Tensor) -> Tensor:
    """Index of each row's first smallest value, by blocks: plain argmin is not vectorised on CPUs, amin is. (R, K) -> (R,)."""
    blocks = scores.view(len(scores), -1, COLUMNS_PER_BLOCK)  # (R, K / block, block)
    block = blocks.amin(2).argmin(1, keepdim=True)  # (R, 1)
    within = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, COLUMNS_PER_BLOCK)).squeeze(1).argmin(1)
    return block.squeeze(1) * COLUMNS_PER_BLOCK + within


def _whole_blocks(weight: Tensor, bias: Tensor, columns: int, *, fill: float) -> tuple[Tensor, Tensor]:
    """Zero columns at the right up to whole blocks of `columns`, their bias `fill`."""
    missing = -len(bias) % columns
    return F.pad(weight, (0, missing)).contiguous(), F.pad(bias, (0, missing), value=fill)


def gather_rows(rows: Sequence[Tensor], ids: Sequence[Tensor]) -> Tensor:
    """The sum over levels of the rows that ids name, on the grid of the finest level given.

    With the weighted text embeddings (K_l, D) as `rows`, this is the text embedding of every cell; with their products with
    the embeddings of N words, (K_l, N), it is the words' scores. Both are linear, so the scores of summed embeddings equal
    the sums of scores.

    Args:
        rows: (K_l, C) float per level, coarse to fine; further levels than ids has are left out.
        ids: (B, h_l, w_l) int64 in [0, K_l) per level or for a prefix; each grid is a whole multiple of the one before.

    Returns:
        (B, C, h, w) float; coarser grids are enlarged bilinearly.

    Example:
        >>> coarse, fine = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [0.25]])
        >>> gather_rows([coarse, fine], [torch.tensor([[[1]]]), torch.tensor([[[0, 1], [1, 1]]])])[0, 0].tolist()
        [[3.5, 3.25], [3.25, 3.25]]
    """
    total: Tensor | None = None
    for table, level_ids in zip(rows, ids, strict=False):
        found = F.embedding(level_ids, table).permute(0, 3, 1, 2)  # (B, C, h_l, w_l)
        if total is not None:
            total = enlarge(total, level_ids.shape[-1] // total.shape[-1])
        total = found if total is None else total + found
    if total is None:
        raise ValueError("expected ids of one level or more, got none")
    return total

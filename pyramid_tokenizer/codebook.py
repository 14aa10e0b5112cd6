"""A codebook's two operations: the nearest entry of a vector, and k-means to fill the entries. Pure, seeded, float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.errors import DataError

ROWS_PER_CHUNK = 256
"""Rows per matrix product. Every product has this many (the last is padded), so that a vector's id does not depend on how
many others came with it: float sums differ between matrix shapes. Also bounds memory at 256 x K floats, which
mostly stay in the processor's cache."""
COLUMNS_PER_BLOCK = 64
"""Products are as many columns wide, or a multiple. Measured with MKL on AVX-512: at widths of 2 to 10 the sum of a row
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
    codebook = codebook.float()
    # |v - c|^2 / 2 = |v|^2 / 2 - v.c + |c|^2 / 2, and the first term is the same for every entry
    weight, bias = _whole_blocks(-codebook.T, codebook.square().sum(1) / 2, fill=float("inf"))
    return by_rows(lambda rows: _argmin(torch.addmm(bias, rows.float(), weight)), vectors)


def affine_rows(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`rows @ weight + bias`, bit for bit the same for a row whatever its neighbours and its place are.

    Args:
        rows: (N, C) float32, N >= 1.
        weight: (C, T) float32.
        bias: (T,) float32.

    Returns:
        (N, T) float32.

    Example:
        >>> affine_rows(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [10.0]]), torch.tensor([0.5])).tolist()
        [[21.5]]
    """
    wide, wide_bias = _whole_blocks(weight, bias, fill=0.0)
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


def _whole_blocks(weight: Tensor, bias: Tensor, *, fill: float) -> tuple[Tensor, Tensor]:
    """Zero columns at the right up to whole blocks, their bias `fill`."""
    missing = -len(bias) % COLUMNS_PER_BLOCK
    return F.pad(weight, (0, missing)).contiguous(), F.pad(bias, (0, missing), value=fill)


def kmeans(
    vectors: Tensor,
    num_codes: int,
    *,
    iterations: int = 20,
    spherical: bool = False,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Centres of Lloyd's algorithm; empty clusters restart at badly served vectors.

    Args:
        vectors: (N, d) float, N >= num_codes; 20 to 50 per code give stable centres. Of unit norm for `spherical`.
        num_codes: K.
        iterations: Lloyd steps; 0 gives the start.
        spherical: Centres have unit norm too (cosine distance).
        generator: On the CPU; makes the result repeatable.
        start: (K, d) float, the centres to begin with, on the device of `vectors`; None draws them among `vectors`.

    Returns:
        (K, d) float32 on the device of `vectors`.

    Raises:
        DataError: There are fewer vectors than codes.

    Source: S. Lloyd, "Least squares quantization in PCM" (1982); the restarts draw by squared error, as the seeding of
        Arthur and Vassilvitskii, "k-means++" (2007) does.

    Example:
        >>> centres = kmeans(torch.tensor([[0.0], [0.2], [5.0], [5.2]]), 2, generator=torch.Generator().manual_seed(0))
        >>> sorted(round(c, 1) for c in centres.flatten().tolist())
        [0.1, 5.1]
    """
    if len(vectors) < num_codes:
        raise DataError(
            f"expected at least {num_codes} vectors for {num_codes} codes, got {len(vectors)}: "
            "give more images or a smaller codebook"
        )
    vectors = vectors.float()
    if start is None:
        start = vectors[torch.randperm(len(vectors), generator=generator)[:num_codes].to(vectors.device)]
    centres = start.float().clone()
    for step in range(iterations):
        ids = nearest(vectors, centres)
        counts = torch.bincount(ids, minlength=num_codes)
        centres = _means(vectors, ids, counts, centres, spherical)
        empty = (counts == 0).nonzero().flatten()
        if len(empty) and step < iterations - 1:
            error = (vectors - centres[ids]).square().sum(1).cpu() + 1e-12
            centres[empty] = vectors[_draw(error, len(empty), generator).to(vectors.device)]
    return centres


def _means(vectors: Tensor, ids: Tensor, counts: Tensor, centres: Tensor, spherical: bool) -> Tensor:
    """The mean of each cluster; a centre stays where its cluster is empty, or has a mean without a direction."""
    means = torch.zeros_like(centres).index_add_(0, ids, vectors) / counts.clamp(min=1).unsqueeze(1)
    kept = counts == 0
    if spherical:
        kept = kept | (means.square().sum(1) < 1e-12)
        means = F.normalize(means, dim=1)
    return torch.where(kept.unsqueeze(1), centres, means)


def _draw(weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` distinct indices, drawn by weight (Gumbel top-k: multinomial takes at most 2^24 categories)."""
    noise = -torch.log(-torch.log(torch.rand(len(weights), generator=generator).clamp(1e-12, 1 - 1e-7)))
    return (weights.log() + noise).topk(count).indices

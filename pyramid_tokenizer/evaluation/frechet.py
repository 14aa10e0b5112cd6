"""`frechet_distance`: how far two sets of feature vectors are apart, as two normal distributions."""

from __future__ import annotations

import torch
from torch import Tensor

from pyramid_tokenizer.errors import DataError


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Computes |mean difference|² + trace(A + B − 2 (A B)^½) of the means and covariances of two sets, in float64.

    It is biased upwards for few vectors, the more so the more dimensions there are: compare figures of equal numbers only.

    Args:
        a: (N, D) float, two vectors or more.
        b: (M, D) float, two vectors or more.

    Returns:
        The distance, 0 for equal sets.

    Raises:
        DataError: The shapes do not fit, or a set has fewer than two vectors.

    Source: D. C. Dowson, B. V. Landau, "The Fréchet distance between multivariate normal distributions" (1982); M. Heusel et al.,
        arXiv 1706.08500, which takes the features of an Inception network.

    Example:
        >>> a = torch.tensor([[0.0], [2.0]])
        >>> round(frechet_distance(a, a + 3), 6), round(frechet_distance(a, 2 * a), 6)
        (9.0, 3.0)
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        got = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise DataError(f"expected two sets of two vectors or more of one length, got {got}: give more images")
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    first, second = a.T.cov(correction=1).reshape(a.shape[1], -1), b.T.cov(correction=1).reshape(a.shape[1], -1)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # (A B)^½ has the eigenvalues of (A^½ B A^½)^½, which is symmetric
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * cross
    return max(0.0, float(distance))

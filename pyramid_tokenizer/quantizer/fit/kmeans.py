"""k-means with a seed: finds the entries of a learned codebook."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.errors import TooFewCellsError
from pyramid_tokenizer.quantizer.nearest import nearest


def kmeans(
    vectors: Tensor,
    num_codes: int,
    *,
    iterations: int = 20,
    spherical: bool = False,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """The centres that Lloyd's algorithm finds; empty clusters restart at vectors that are far from their centre.

    Args:
        vectors: (N, d) float, N >= num_codes; 20 to 50 per code give stable centres. Of unit norm for `spherical`.
        num_codes: K.
        iterations: Lloyd steps; 0 gives the start.
        spherical: Whether centres have unit norm too (cosine distance).
        generator: Source of chance, on the CPU; None takes torch's global one.
        start: (K, d) float, the centres to begin with, on the device of `vectors`; None draws them among `vectors`.

    Returns:
        (K, d) float32 on the device of `vectors`.

    Raises:
        TooFewCellsError: There are fewer vectors than codes.

    Source: S. Lloyd, "Least squares quantization in PCM" (1982); the restarts draw by squared error, as the seeding of
        Arthur and Vassilvitskii, "k-means++" (2007) does.

    Example:
        >>> centres = kmeans(torch.tensor([[0.0], [0.2], [5.0], [5.2]]), 2, generator=torch.Generator().manual_seed(0))
        >>> sorted(round(c, 1) for c in centres.flatten().tolist())
        [0.1, 5.1]
    """
    if len(vectors) < num_codes:
        raise TooFewCellsError(
            f"expected at least {num_codes} vectors for {num_codes} codes, got {len(vectors)}: "
            "give more images or a smaller codebook"
        )
    vectors = vectors.float()
    if start is None:
        start = vectors[torch.randperm(len(vectors), generator=generator)[:num_codes].to(vectors.device)]
    centres = start.float().clone()
    on_cpu = vectors.cpu()
    for step in range(iterations):
        ids = nearest(vectors, centres)
        # sums on the CPU, whose order is fixed: a GPU adds in any order, and no two fits would be equal
        counts = torch.bincount(ids.cpu(), minlength=num_codes)
        centres = _means(on_cpu, ids.cpu(), counts, centres.cpu(), spherical).to(vectors.device)
        empty = (counts == 0).nonzero().flatten().to(vectors.device)
        if len(empty) and step < iterations - 1:
            error = (vectors - centres[ids]).square().sum(1).cpu() + 1e-12
            centres[empty] = vectors[_draw(error, len(empty), generator).to(vectors.device)]
    return centres


def _means(vectors: Tensor, ids: Tensor, counts: Tensor, centres: Tensor, spherical: bool) -> Tensor:
    """The mean of each cluster; where a cluster is empty, or its mean is zero and `spherical`, the centre stays."""
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

"""Kinds of codebooks: where entries may lie, how they are fitted, and whether training may move them.

"euclidean"   Learned entries anywhere. They keep the amplitude of features, and with it brightness and contrast.
"cosine"      Learned entries of unit norm; the nearest one has the largest cosine.
FSQ           A fixed grid in [-1, 1]^d (finite scalar quantisation): no entry can move or go unused for good. The grid is
              vector_quantize_pytorch's, in its symmetric form, which also allows two entries in a dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.quantizer.fit.kmeans import kmeans

LEAST_DEVIATION = 1e-4
"""A direction whose deviation is below this share of the largest is rounding and not worth a dimension of a grid."""


class CodebookKind(Protocol):
    """What every kind of codebook answers."""

    @property
    def learned(self) -> bool:
        """Whether training may move the entries."""
        ...

    @property
    def unit_norm(self) -> bool:
        """Whether entries are unit vectors."""
        ...

    def constrain(self, rows: Tensor) -> Tensor:
        """Brings projections (N, d) to where entries can lie: (N, d)."""
        ...

    def adapter_scale(self, rows: Tensor, *, level: int) -> Tensor:
        """The factor, () or (d,), that brings projections to the scale of the entries.

        Args:
            rows: (N, d) float32, centred projections before `constrain`.
            level: Number of the level, for messages.

        Raises:
            DataError: Too few directions vary for this kind.
        """
        ...

    def fit_entries(
        self, rows: Tensor, count: int, *, iterations: int, generator: torch.Generator, start: Tensor | None
    ) -> Tensor:
        """The entries (K, d) float32 that serve projections best.

        Args:
            rows: (N, d) float32, projections after `constrain`, N >= count.
            count: K.
            iterations: Steps of k-means.
            generator: Source of chance, on the CPU.
            start: (K, d), the entries to begin with; None draws them among `rows`.
        """
        ...


@dataclass(frozen=True)
class Learned:
    """Entries found by k-means, which moving averages may then follow.

    Args:
        unit_norm: Whether entries are unit vectors, so that the nearest one has the largest cosine.
    """

    unit_norm: bool = False
    learned = True

    def constrain(self, rows: Tensor) -> Tensor:
        """To unit norm where entries have it; elsewhere unchanged."""
        return F.normalize(rows, dim=1) if self.unit_norm else rows

    def adapter_scale(self, rows: Tensor, *, level: int) -> Tensor:
        """One factor for all directions: it keeps distances in proportion and gives the decoder inputs of unit scale."""
        return 1 / rows.square().mean().sqrt().clamp(min=1e-8)

    def fit_entries(
        self, rows: Tensor, count: int, *, iterations: int, generator: torch.Generator, start: Tensor | None
    ) -> Tensor:
        """The centres of k-means."""
        return kmeans(rows, count, iterations=iterations, spherical=self.unit_norm, generator=generator, start=start)


@dataclass(frozen=True)
class ScalarGrid:
    """Finite scalar quantisation: every dimension is bounded by tanh and rounded on its own.

    The nearest point of the grid does both at once.

    Args:
        entries: Per dimension, the number of points, 2 or more; their product is the size of the codebook.

    Source: J. Parker et al., "Scaling Transformers for Low-Bitrate High-Quality Speech Coding", arXiv 2411.19842, section
        3.2, on F. Mentzer et al., "Finite Scalar Quantization", arXiv 2309.15505.
    """

    entries: tuple[int, ...]
    learned = False
    unit_norm = False

    def constrain(self, rows: Tensor) -> Tensor:
        """Into the grid's range by `bound`."""
        return bound(rows)

    def adapter_scale(self, rows: Tensor, *, level: int) -> Tensor:
        """(d,): the factors that bring every direction to unit deviation.

        Measured with the bundled backbone and the toy: the principal directions, uncorrelated as the regression gives them,
        each at unit deviation before `bound`, use 96 to 100 % of a grid; a factor of .6 to .8 explains .01 more of the
        pixels but uses 70 to 95 %, and a random rotation gains on neither.

        Raises:
            DataError: Fewer directions vary than the grid has dimensions.
        """
        deviation = rows.std(0, correction=0)
        varying = int((deviation > LEAST_DEVIATION * deviation.max()).sum())
        if varying < len(deviation):
            raise DataError(
                f"expected images that differ in {len(deviation)} directions at level {level}, as many as its fsq has, "
                f"got {varying}: check the images, or use fewer dimensions"
            )
        return 1 / deviation

    def fit_entries(
        self, rows: Tensor, count: int, *, iterations: int, generator: torch.Generator, start: Tensor | None
    ) -> Tensor:
        """The points of the grid, whatever the projections are."""
        return grid(self.entries).to(rows.device)


def bound(projected: Tensor) -> Tensor:
    """Brings values into the range of a grid, elementwise; the same shape.

    Of a coordinate with a normal distribution of unit deviation, it makes the cells of the grid about equally likely.

    Args:
        projected: Any shape, float.

    Returns:
        Values in [-1, 1]; the nearest point of `grid` is the library's quantisation of `projected`.

    Example:
        >>> [round(v, 3) for v in bound(torch.tensor([-9.0, 0.0, 0.5])).tolist()]
        [-1.0, 0.0, 0.462]
    """
    return torch.tanh(projected)


def grid(entries: Sequence[int]) -> Tensor:
    """All points of the grid, in the library's order: the first dimension runs fastest.

    Args:
        entries: Per dimension, 2 or more: e.g. 8 entries lie at -1, -5/7, … 1.

    Returns:
        (K, d) float32 in [-1, 1], K the product of the d entries.

    Example:
        >>> grid((3, 2)).tolist()
        [[-1.0, -1.0], [0.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    """
    from vector_quantize_pytorch import FSQ

    return FSQ(list(entries), preserve_symmetry=True).get_buffer("implicit_codebook")

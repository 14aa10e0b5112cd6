"""How much a score of masks, a difference of two methods or a mean would vary over other images of the same kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.evaluation.confusion import SCORES, ClassCounts, ConfusionMatrix, score_counts

LEVEL = 0.95
"""Coverage of the intervals."""
_TAILS = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)


def bootstrap_interval(
    per_image: Sequence[ClassCounts | ConfusionMatrix],
    score: str = "miou_present",
    *,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Computes the 95 % percentile interval of one score by resampling the images with replacement.

    Images are resampled, not pixels, because the pixels of one image are not independent of each other. Compare two methods
    that were measured on the same images by their difference in each draw, not by whether their intervals overlap.

    Args:
        per_image: The counts of each image, for one image or more, all with the same class list.
        score: The name of a score, one of `confusion.SCORES`.
        samples: How many sets of images are drawn, at least 1.
        seed: Seed of the draws; the same seed and counts give the same interval.

    Returns:
        The lower and the upper end of the interval.

    Raises:
        ConfigError: The score is unknown, or `samples` is below 1.
        DataError: There is no image, or the images have different class lists.

    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.

    Example:
        >>> images = []
        >>> for right in (1, 2, 3, 4):
        ...     matrix = ConfusionMatrix(2)
        ...     matrix.add((torch.arange(4) >= right).long()[None], torch.zeros(1, 4, dtype=torch.int64))
        ...     images.append(matrix)
        >>> sum(images, ConfusionMatrix(2)).scores().pixel_accuracy, bootstrap_interval(images, "pixel_accuracy")
        (0.625, (0.375, 0.875))
    """
    if score not in SCORES:
        raise ConfigError(
            f"expected a score of {', '.join(SCORES)}, got {score!r}: papers usually report one of the first two"
        )
    return bootstrap_intervals(per_image, samples=samples, seed=seed)[score]


def bootstrap_intervals(
    per_image: Sequence[ClassCounts | ConfusionMatrix], *, samples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Computes the interval of every score, by its name, from the same draws; see `bootstrap_interval`."""
    values = _drawn_scores(_stack(per_image), samples, seed)
    # a draw without any labelled pixel has the score NaN and is left out
    bounds = {name: torch.nanquantile(value, _TAILS).tolist() for name, value in values.items()}
    return {name: (low, high) for name, (low, high) in bounds.items()}


def bootstrap_difference(
    per_image: Sequence[ClassCounts | ConfusionMatrix],
    reference: Sequence[ClassCounts | ConfusionMatrix],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Computes the 95 % interval of every score less that of a reference, both of the same images in each draw.

    Args:
        per_image: As `bootstrap_interval` takes them.
        reference: The counts of another method for the same images, in the same order.
        samples: How many sets of images are drawn, at least 1.
        seed: Seed of the draws.

    Raises:
        ConfigError: `samples` is below 1.
        DataError: There is no image, the images have different class lists, or the two methods have different numbers of them.

    Example:
        >>> one = ConfusionMatrix(2)
        >>> one.add(torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[0, 0, 0, 1]]))
        >>> bootstrap_difference([one, one], [one, one])["miou_present"]
        (0.0, 0.0)
    """
    if len(per_image) != len(reference):
        got = f"{len(per_image)} and {len(reference)}"
        raise DataError(f"expected counts of the same images by both methods, got {got}: measure both on all images")
    both = [_drawn_scores(_stack(counts), samples, seed) for counts in (per_image, reference)]
    bounds = {name: torch.nanquantile(value - both[1][name], _TAILS).tolist() for name, value in both[0].items()}
    return {name: (low, high) for name, (low, high) in bounds.items()}


def mean_interval(values: Tensor, *, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Computes the 95 % percentile interval of a mean over images, by resampling the images with replacement.

    Args:
        values: (N,) one finite number for each image, N >= 1.
        samples: How many sets of images are drawn, at least 1.
        seed: Seed of the draws; the same seed and values give the same interval.

    Raises:
        DataError: There is no image, or a value is NaN or infinite.

    Example:
        >>> mean_interval(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        (1.5, 3.5)
    """
    if values.ndim != 1 or not len(values) or not bool(values.isfinite().all()):
        raise DataError(f"expected one finite value for each image, got {tuple(values.shape)}: leave others out")
    means = _draws(len(values), samples, seed) @ values.double() / len(values)
    low, high = torch.quantile(means, _TAILS).tolist()
    return low, high


def _drawn_scores(table: Tensor, samples: int, seed: int) -> dict[str, Tensor]:
    """Every score, (samples,) float64, of sets of images that are drawn from counts (M, 3, N)."""
    if samples < 1:
        raise ConfigError(f"expected samples of at least 1, got {samples}: 1000 is usual")
    times = _draws(len(table), samples, seed)
    counts = (times @ table.flatten(1)).unflatten(1, table.shape[1:])  # (samples, 3, N), exact below 2^53
    return score_counts(*counts.unbind(1))[1]


def _draws(num_images: int, samples: int, seed: int) -> Tensor:
    """(samples, num_images) float64: how often each image is in each of the sets that are drawn."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(num_images, (samples, num_images), generator=generator)
    times = torch.zeros(samples, num_images, dtype=torch.float64)
    return times.scatter_add_(1, draws, torch.ones_like(times))


def _stack(per_image: Sequence[ClassCounts | ConfusionMatrix]) -> Tensor:
    counts = [x.class_counts() if isinstance(x, ConfusionMatrix) else x for x in per_image]
    lengths = sorted({len(x.wanted) for x in counts})
    if len(lengths) != 1:
        got = f"lists of {lengths} classes" if lengths else "no image"
        raise DataError(f"expected counts of one image or more over one class list, got {got}: count images first")
    return torch.stack([torch.stack([x.correct, x.wanted, x.predicted]) for x in counts]).double()

"""Scores of a large image: from overlapping windows, or from the image at another size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.images.read import read_image

ScoreFn = Callable[[Tensor], Tensor]
"""A function from an image (3, h, w) float in [0, 1] to scores (N, h, w) float; a higher score is more likely."""


def sliding_window(score_fn: ScoreFn, image: Tensor, *, window_px: int, stride_px: int) -> Tensor:
    """Scores an image by overlapping windows; a pixel's score is the mean over all windows that cover it.

    Windows start at the top left, every `stride_px`. The last window of a row or column is shifted inside, so that all have
    the same size; a side that is shorter than the window is taken whole. The mean is computed as a running mean, so it is exact
    where all windows give the same score.

    Args:
        score_fn: Scores a window: (3, h, w) -> (N, h, w), all finite.
        image: (3, H, W) float in [0, 1].
        window_px: The side of the windows, at least 1.
        stride_px: The step from one window to the next, from 1 to `window_px`.

    Returns:
        Scores (N, H, W) on the device of `score_fn`'s scores, of their dtype but at least float32.

    Raises:
        ConfigError: `window_px` or `stride_px` is out of its range.
        DataError: The image is not (3, H, W), or `score_fn` returns another shape than (N, h, w), NaN or infinite scores.

    Example:
        >>> image = torch.rand(3, 20, 33)
        >>> scores = sliding_window(lambda x: x.square(), image, window_px=8, stride_px=3)
        >>> torch.equal(scores, image.square())
        True
    """
    if not 1 <= stride_px <= window_px:
        got = f"window_px {window_px} and stride_px {stride_px}"
        raise ConfigError(
            f"expected 1 <= stride_px <= window_px, got {got}: larger strides leave pixels without scores"
        )
    _check_image(image)
    mean, times = torch.empty(0), torch.zeros(image.shape[1:], dtype=torch.int32)
    for rows, columns in _windows(image.shape[1], image.shape[2], window_px, stride_px):
        scores = _scores_of(score_fn, image[:, rows, columns])
        if not times.any():
            mean, times = scores.new_zeros(len(scores), *image.shape[1:]), times.to(scores.device)
        times[rows, columns] += 1
        part = mean[:, rows, columns]
        part += (scores - part) / times[rows, columns]
    return mean


def at_short_side(score_fn: ScoreFn, image: Tensor, *, short_side_px: int) -> Tensor:
    """Scores an image at another size and resizes the scores back; most protocols fix the short side of the image.

    The image is resized as `read_image` does (bicubic, antialiased, with its aspect ratio), the scores bilinearly. Label maps
    are computed from the resized scores at the size of the labels; labels themselves are never resized.

    Args:
        score_fn: Scores an image: (3, h, w) -> (N, h', w') on any grid that covers it. It may call `sliding_window`.
        image: (3, H, W) float in [0, 1].
        short_side_px: The short side of the image that `score_fn` gets, at least 1.

    Returns:
        Scores (N, H, W) on the device of `score_fn`'s scores, of their dtype but at least float32.

    Raises:
        DataError: The image is not (3, H, W), or `score_fn` returns no float (N, h', w'), or NaN or infinite scores.
        ImageValueError: `short_side_px` is below 1.

    Example:
        >>> at_short_side(lambda x: x[:2, ::4, ::4], torch.rand(3, 20, 33), short_side_px=16).shape
        torch.Size([2, 20, 33])
    """
    _check_image(image)
    scores = _scores_of(score_fn, read_image(image, size=short_side_px), same_size=False)
    if scores.shape[1:] == image.shape[1:]:
        return scores
    return F.interpolate(scores[None], (image.shape[1], image.shape[2]), mode="bilinear", align_corners=False)[0]


def _windows(height: int, width: int, window: int, stride: int) -> Iterator[tuple[slice, slice]]:
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            yield slice(top, top + window), slice(left, left + window)


def _starts(side: int, window: int, stride: int) -> list[int]:
    last = max(0, side - window)
    return [*range(0, last, stride), last]


def _scores_of(score_fn: ScoreFn, image: Tensor, *, same_size: bool = True) -> Tensor:
    scores = score_fn(image)
    size = image.shape[1:]
    if scores.ndim != 3 or not scores.is_floating_point() or (same_size and scores.shape[1:] != size):
        expected = f"float scores (N, {size[0]}, {size[1]})" if same_size else "float scores (N, h, w)"
        raise DataError(
            f"expected {expected}, got {scores.dtype} {tuple(scores.shape)}: resize the scores to the size of the image"
        )
    if not bool(scores.isfinite().all()):
        raise DataError(
            "expected finite scores, got NaN or infinite ones: leave a class out rather than giving it an infinite score"
        )
    scores = scores.detach()
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.float()


def _check_image(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise DataError(f"expected an image (3, H, W), got {tuple(image.shape)}: pass one image, e.g. batch[0]")

"""What the gradient-free fit reads: random crops of a source of images, or batches that are ready."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from pyramid_tokenizer.arguments import check_whole, shown
from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.images import ImageSource, RandomCrops, open_images

FIT_CROP_PX = 160
"""Side of the crops that are drawn, before it is rounded up to a multiple of the tokenizer's strides."""

CROPS_PER_BATCH = 16
"""Crops that go through the backbone together."""

Batches: TypeAlias = Callable[[], Iterable[Tensor]]
"""Gives the same batches (B, 3, H, W) at each call."""


def image_batches(source: Any, *, num_crops: int, crop_px: int | None, multiple_px: int = 1, seed: int) -> Batches:
    """Batches of images that can be read again and again.

    Args:
        source: Anything that `open_images` takes, from which random crops are drawn; or batches (B, 3, H, W): a list, another
            iterable that gives the same ones each time, such as `RandomCrops` or a loader without shuffling, or a function
            that returns one.
        num_crops: Crops to draw; batches that are ready are taken as they are.
        crop_px: Side of a crop in pixels; None takes 160 px, rounded up to a multiple of `multiple_px`.
        multiple_px: See `crop_px`.
        seed: Draws the crops.

    Raises:
        ConfigError: `num_crops` or `crop_px` is no whole number of at least 1, or `seed` no whole number.
        DataError: An iterator, which can be read only once, a function that needs arguments, or a source that
            `open_images` refuses.

    Example:
        >>> import torch
        >>> batches = image_batches([torch.rand(3, 40, 60), torch.rand(3, 50, 50)], num_crops=20, crop_px=32, seed=0)
        >>> [tuple(batch.shape) for batch in batches()]
        [(16, 3, 32, 32), (4, 3, 32, 32)]
    """
    side = math.ceil(FIT_CROP_PX / multiple_px) * multiple_px if crop_px is None else crop_px
    check_whole(num_crops=num_crops, crop_px=side)
    check_whole(None, seed=seed)
    if isinstance(source, Iterator):
        raise DataError(
            "expected a source that can be read more than once, got an iterator: give a list, or a function that makes a "
            "new iterator at each call"
        )
    if callable(source):
        _check_needs_nothing(source)
        return _checked(source)
    if _holds_batches(source):
        return lambda: source
    crops = RandomCrops(open_images(source), batch_size=CROPS_PER_BATCH, crop_px=side, seed=seed)
    return lambda: _first(crops, num_crops)


def _check_needs_nothing(source: Callable[..., Any]) -> None:
    try:
        inspect.signature(source).bind()
    except TypeError as error:
        raise DataError(
            f"expected a function that gives batches (B, 3, H, W) when it is called without arguments, got one of which "
            f"Python says: {error}; wrap it, e.g. lambda: make_batches(photos)"
        ) from error
    except ValueError:  # some functions written in C do not tell what they take
        pass


def _checked(source: Callable[..., Any]) -> Batches:
    def batches() -> Iterable[Tensor]:
        found = source()
        if not isinstance(found, Iterable) or isinstance(found, (str, bytes, bytearray, Mapping)):
            raise DataError(
                f"expected batches (B, 3, H, W) from the function that was given, got {shown(found)}: return a list of "
                "them; pass a folder or a list of images itself, without a function"
            )
        return found

    return batches


def _first(crops: RandomCrops, count: int) -> Iterator[Tensor]:
    for start in range(0, count, CROPS_PER_BATCH):
        yield crops[start // CROPS_PER_BATCH][: count - start]


def _holds_batches(source: Any) -> bool:
    """Whether iterating gives batches: a list of 4-dimensional items or of lists, or what `open_images` does not know."""
    if isinstance(source, Sequence) and not isinstance(source, str):
        return len(source) > 0 and all(_is_batch(item) for item in source)
    known = (str, os.PathLike, Tensor, np.ndarray, ImageSource)
    from_datasets = type(source).__module__.split(".")[0] == "datasets"
    return isinstance(source, Iterable) and not isinstance(source, known) and not from_datasets


def _is_batch(item: Any) -> bool:
    return isinstance(item, (list, tuple)) or getattr(item, "ndim", None) == 4

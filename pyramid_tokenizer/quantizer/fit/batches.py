"""What the gradient-free fit reads: random crops of a source of images, or batches that are ready."""

from __future__ import annotations

import inspect
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.checks.arguments import check_whole, shown
from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.images import ImageSource, RandomCrops, open_images, pad_to_multiple, to_batch
from pyramid_tokenizer.quantizer.fit.kept import Samples

FIT_CROP_PX = 160
"""Side of the crops that are drawn, before it is rounded up to a multiple of the tokenizer's strides."""

CROPS_PER_BATCH = 16
"""Crops that go through the backbone together."""


@dataclass(frozen=True)
class Batches:
    """Gives the same batches (B, 3, H, W) at each call."""

    read: Callable[[], Iterable[Tensor]]
    """Gives them."""
    count: int | None = None
    """How many they are; None where only reading them tells."""

    def __call__(self) -> Iterable[Tensor]:
        """The batches."""
        return self.read()


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
    if isinstance(source, Batches):
        return source
    if callable(source):
        _check_needs_nothing(source)
        return Batches(_checked(source))
    if _holds_batches(source):
        return Batches(lambda: source, operator.length_hint(source) or None)
    crops = RandomCrops(open_images(source), batch_size=CROPS_PER_BATCH, crop_px=side, seed=seed)
    return Batches(lambda: _first(crops, num_crops), math.ceil(num_crops / CROPS_PER_BATCH))


def feature_samples(
    batches: Batches, features: Callable[..., FeaturePyramid], *, multiple_px: int, device: torch.device
) -> Samples:
    """A `Samples` of batches: the backbone's features of each, and the images.

    Images that are all alike are found in seconds, because a batch that repeats the one before, but for rounding, takes over
    its features.

    Args:
        batches: Batches (B, 3, H, W) in [0, 1], or lists of images of one size.
        features: Called with a padded batch on `device` and `with_dense=True`, as `PyramidTokenizer.features` is.
        multiple_px: Both sides of a batch are padded to multiples of this.
        device: Where the backbone is.
    """

    def samples() -> Iterator[tuple[FeaturePyramid, Tensor]]:
        before: tuple[FeaturePyramid, Tensor] | None = None
        for batch in batches():
            padded = pad_to_multiple(to_batch(batch).to(device), multiple=multiple_px)
            if before is None or not _repeats(before[1], padded):
                before = features(padded, with_dense=True), padded
            yield before

    return samples


def _repeats(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=1e-6)


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


def _checked(source: Callable[..., Any]) -> Callable[[], Iterable[Tensor]]:
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

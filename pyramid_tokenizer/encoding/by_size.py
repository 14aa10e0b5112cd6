"""Images of any sizes -> batches of one size, and their results back in order."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_whole, shown
from pyramid_tokenizer.encoding.by_rows import is_large
from pyramid_tokenizer.errors import ConfigError, ImageError, ImageValueError
from pyramid_tokenizer.images.read import ImageLike, read_image
from pyramid_tokenizer.tokens.pyramid import TokenPyramid

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
"""What happens to an image that cannot be read: an error, or a warning and no tokens."""

WAITING_BATCHES = 8
"""At most this many batches' worth of images wait for others of their size: a folder of photos has many sizes."""


def encode_by_size(
    encode: Callable[[Tensor], TokenPyramid],
    images: Iterable[ImageLike],
    *,
    size: int | None,
    batch_size: int,
    on_error: OnError = "raise",
) -> list[TokenPyramid | None]:
    """One pyramid per image, in order; images of one size are encoded together.

    Args:
        encode: (B, 3, H, W) -> tokens of B images.
        images: Any iterable of single images; read once, one by one.
        size: Resize short sides to this many pixels first; None keeps the native size.
        batch_size: Largest B. Up to eight times as many images wait in memory for others of their size, and large ones (see
            `by_rows.is_large`) for none.
        on_error: What happens to an image that cannot be read. "raise" raises its error. "skip" goes on: the result has None at
            the image's position, so that results and images still correspond, and position and reason are logged as a warning.
            Errors that do not concern a single image are always raised.

    Raises:
        ImageError: An image that cannot be read; the message tells its position. Also for one image in place of many.
        ConfigError: `batch_size` is below 1, or `on_error` is another word.
    """
    check_whole(batch_size=batch_size)
    if not isinstance(on_error, str) or on_error not in ("raise", "skip"):
        raise ConfigError(f'expected on_error "raise" or "skip", got {shown(on_error)}: name one of the two')
    results: dict[int, TokenPyramid | None] = {}
    waiting: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)

    def flush(shape: torch.Size) -> None:
        group = waiting.pop(shape)
        tokens = encode(group[0][1][None] if len(group) == 1 else torch.stack([pixels for _, pixels in group]))
        results.update(zip([position for position, _ in group], tokens.unbind(), strict=True))

    for position, pixels in _read_each(images, size, on_error):
        if pixels is None:
            results[position] = None
            continue
        waiting[pixels.shape].append((position, pixels))
        if len(waiting[pixels.shape]) == (1 if is_large(pixels) else batch_size):
            flush(pixels.shape)
        elif sum(map(len, waiting.values())) >= WAITING_BATCHES * batch_size:
            flush(max(waiting, key=lambda shape: len(waiting[shape])))
    for shape in list(waiting):
        flush(shape)
    return [results[position] for position in range(len(results))]


def _read_each(images: Iterable[ImageLike], size: int | None, on_error: OnError) -> Iterator[tuple[int, Tensor | None]]:
    """Position and pixels (3, H, W) of each image; None for one that is skipped."""
    # a path has letters, an array rows and a file lines: all can be iterated, and none is a list of images
    one = (str, os.PathLike, bytes, bytearray, memoryview)
    if (
        isinstance(images, one)
        or hasattr(images, "read")
        or not isinstance(images, Iterable)
        or getattr(images, "ndim", 4) != 4
    ):
        raise ImageValueError(f"expected several images, got one {type(images).__name__}: use encode, or [image]")
    for position, image in enumerate(images):
        try:
            yield position, read_image(image, size=size)
        except ImageError as error:
            if on_error == "raise":
                raise type(error)(f"image {position}: {error}") from error
            logger.warning("image %d is skipped: %s", position, error)
            yield position, None

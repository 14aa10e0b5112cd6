"""The images that a reconstruction is measured on: centre crops of one size, as 8-bit pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyramid_tokenizer.errors import ImageError
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.images.sources import ImageSource

CROPS_IN_WORDS = "{side}x{side} px centre crops after resizing the short side to {side} px (bicubic, on 8-bit pixels)"
"""What `centre_crop` does, for reports."""


def centre_crop(image: Image.Image, side: int) -> Tensor:
    """(3, side, side) uint8: the short side is resized to `side` pixels (bicubic), then the centre is cropped square.

    Args:
        image: An RGB image.
        side: Pixels, at least 1.

    Example:
        >>> centre_crop(Image.new("RGB", (40, 30), (255, 0, 0)), 15)[:, 7, 7].tolist()
        [255, 0, 0]
    """
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    pixels = np.array(image.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def crop_batches(
    source: ImageSource,
    *,
    side: int,
    batch_size: int,
    indices: Sequence[int] | None = None,
    skipped: list[str],
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Centre crops of the images of a source, in order: batches (B, 3, side, side) uint8.

    Args:
        source: The images; `open_images` makes one of a folder.
        side: As for `centre_crop`.
        batch_size: Images of a batch, but for the last.
        indices: Numbers of the images to take; None for all.
        skipped: Gets the error of each image that cannot be read.
        advance: Called after each image.
    """
    crops: list[Tensor] = []
    for index in range(len(source)) if indices is None else indices:
        try:
            crops.append(centre_crop(to_pil(source.read(index))[0], side))
        except ImageError as error:
            skipped.append(str(error))
        advance()
        if len(crops) == batch_size:
            yield torch.stack(crops)
            crops = []
    if crops:
        yield torch.stack(crops)

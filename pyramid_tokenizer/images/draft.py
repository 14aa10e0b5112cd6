"""JPEG files decoded at a fraction of their size, for large photos that are resized to much less.

A JPEG holds blocks of 8 x 8 pixels by their frequencies. A decoder that leaves out the high ones gets an image of a half, a
quarter or an eighth of the size in a fraction of the time. The pixels then differ a little from those of a full decoding and
resizing, so whoever uses this says so beside the result: it is an option of the image recipe, and off by default.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image
from torch import Tensor

from pyramid_tokenizer.errors import ImageError
from pyramid_tokenizer.images.read import read_image, resize_to

MARGIN = 2
"""The decoded short side is at least this many times the wanted one, as in Pillow's own thumbnails: the resize then still
averages over pixels, and hardly differs from that of the full image."""


def read_jpeg_draft(image: str | os.PathLike[str] | bytes, *, size: int) -> Tensor:
    """An image file with its short side resized, decoded at a fraction of its size where it is a large JPEG.

    Files of other formats, and JPEGs whose short side is less than four times `size`, give the pixels of `read_image`.

    Args:
        image: A path or the bytes of an image file.
        size: Length of the short side in pixels; the long side is that of `read_image`.

    Returns:
        (3, H, W) float32 in [0, 1], RGB.

    Raises:
        ImageError: It is missing, damaged or no image, as in `read_image`.

    Example:
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (641, 400), (255, 0, 0)).save(file, "JPEG")
        >>> read_jpeg_draft(file.getvalue(), size=40).shape, read_image(file, size=40).shape
        (torch.Size([3, 40, 64]), torch.Size([3, 40, 64]))
    """
    data = image if isinstance(image, bytes) else _read_file(image)
    try:
        opened = Image.open(io.BytesIO(data))
    except Exception:  # damaged bytes make Pillow's readers raise nearly any class; read_image says what is wrong
        return read_image(image, size=size)
    height, width = opened.height, opened.width
    fraction = min(height, width) / (MARGIN * size)
    if fraction < 2 or opened.format != "JPEG":
        return read_image(image, size=size)
    opened.draft(None, (int(width / fraction), int(height / fraction)))
    try:
        pixels = read_image(opened)
    except ImageError as error:
        raise type(error)(f"{'' if isinstance(image, bytes) else repr(os.fspath(image)) + ': '}{error}") from error
    long = round(max(height, width) * size / min(height, width))
    return resize_to(pixels, (size, long) if pixels.shape[1] <= pixels.shape[2] else (long, size))


def _read_file(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        read_image(path)  # names what is wrong with it
        raise

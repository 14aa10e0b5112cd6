"""Integer images of more than 8 bits: one rule for PIL images, files, arrays and tensors.

    16 bits      uint16 arrays and tensors, the PIL modes "I;16...",      divided by 65,535, whatever values they hold; 12-bit
                 16-bit files (TIFF, PNG, PGM, JPEG 2000)                 values in 16 bits are dark until they are scaled
    more bits    the PIL mode "I", 32-bit files,                          divided by 65,535 where the largest value is from
                 int32, uint32, int64 and uint64 arrays and tensors       256 to 65,535; refused otherwise

Numbers of more than 16 bits do not say which value is white. Values up to 255 are most likely 8-bit ones, and values above
65,535 have another white; dividing these by 65,535 would give an image that is nearly black or clipped, so both are refused
with the line that scales them. Signed 16-bit and 8-bit integers are refused as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramid_tokenizer.errors import ImageValueError

WHITE_16_BITS = 65_535

_WIDE_DTYPES = (torch.int32, torch.int64, torch.uint32, torch.uint64)

# Pillow opens their 16-bit files in its 32-bit mode "I", PNG before version 11.
_FORMATS_OF_16_BITS = ("PPM", "PNG")

# What is scaled -> how it becomes 8 bits, 16 bits, and floats by subtraction and division.
_LINES = {
    "image": ('image.convert("L")', 'image.convert("I;16")', "numpy.asarray(image, dtype='float32')"),
    "array": ("array.astype('uint8')", "array.astype('uint16')", "array.astype('float32')"),
    "tensor": ("tensor.to(torch.uint8)", "tensor.to(torch.uint16)", "tensor.float()"),
}


def is_wide_array(array: NDArray[Any]) -> bool:
    """Whether the array holds integers of more than 16 bits."""
    return array.dtype.kind in "iu" and array.dtype.itemsize > 2


def array_in_16_bits(array: NDArray[Any], *, name: str = "array", kind: str | None = None) -> NDArray[np.uint16]:
    """Integers of more than 16 bits as the uint16 values that are divided by 65,535.

    Args:
        array: Any shape, integers of more than 16 bits.
        name: "array", or "image" for the values of a PIL image: which lines the error shows.
        kind: What the error calls it; None names the dtype.

    Raises:
        ImageValueError: A value is negative, or the largest one is below 256 or above 65,535.

    Example:
        >>> array_in_16_bits(np.array([[0, 4095]])).dtype
        dtype('uint16')
    """
    if array.size:
        _check_white(int(array.min()), int(array.max()), name, kind or f"an array of {array.dtype}")
    return array.astype(np.uint16)


def mode_i_in_16_bits(array: NDArray[Any], file_format: str | None) -> NDArray[np.uint16]:
    """The values of a PIL image of mode "I" as uint16; those of a 16-bit file are not judged.

    Raises:
        ImageValueError: As in `array_in_16_bits`.
    """
    if file_format in _FORMATS_OF_16_BITS:
        return array.astype(np.uint16)
    return array_in_16_bits(array, name="image", kind='an image of PIL mode "I"')


def tensor_from_integers(images: Tensor) -> Tensor:
    """uint16 and wider integers divided by 65,535, as float32; tensors of other dtypes as they are.

    Raises:
        ImageValueError: As in `array_in_16_bits`; tensors of uint16 are not judged.
    """
    if images.dtype in _WIDE_DTYPES and images.numel():
        low, high = (int(value) for value in torch.aminmax(images.to(torch.int64)))
        _check_white(low, high, "tensor", f"a tensor of {images.dtype}")
    elif images.dtype != torch.uint16:
        return images
    pixels = images.float()
    return pixels / pixels.new_full((), WHITE_16_BITS)  # by a tensor: a GPU would multiply with a number's inverse


def _check_white(low: int, high: int, name: str, kind: str) -> None:
    if low >= 0 and 255 < high <= WHITE_16_BITS:
        return
    as_8_bits, as_16_bits, as_floats = _LINES[name]
    if high > low and low < 0:
        fix = f"use ({as_floats} + {-low}) / {high - low} if {low} is black and {high} is white"
    elif high > WHITE_16_BITS:
        fix = f"use {as_floats} / {high} if {high} is white"
    elif low < 0:
        fix = "look where it is made"
    else:
        fix = f"use {as_8_bits} if 255 is white, {as_16_bits} if 65535 is white"
    raise ImageValueError(
        f"expected values of 0 or more with a largest one from 256 to {WHITE_16_BITS} in {kind}, got {low}..{high}: {fix}"
    )

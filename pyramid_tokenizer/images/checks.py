"""What pixels must be: checks of sizes, shapes, dtypes and ranges, with what to do in their messages."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_kind
from pyramid_tokenizer.errors import ImageTooLargeError, ImageValueError, MixedSizesError

# How far floats may leave [0, 1] and still be taken as rounding, e.g. after a resize; they are clamped.
_ROUNDING = 1e-4
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The float dtypes that are computed with; those of 8 bits hold numbers for storage alone."""


def extremes(images: Tensor) -> tuple[float, float]:
    """The smallest and the largest value; both NaN where any value is. On a GPU this waits for the result."""
    low, high = torch.aminmax(images.detach())
    return float(low), float(high)


def check_at_least_one(**values: int | None) -> None:
    """Raises ImageValueError unless every value is a whole number of at least 1; `size` may also be None."""
    for name, value in values.items():
        right = isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1
        if not right and not (value is None and name == "size"):
            raise ImageValueError(f"expected {name} as a whole number of at least 1, got {value!r}: correct {name}")


def check_num_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raises ImageValueError for an image without pixels, and ImageTooLargeError for one of more than `max_pixels`."""
    if height < 1 or width < 1:
        raise ImageValueError(f"expected at least 1 x 1 pixel, got height {height}, width {width}: the image is empty")
    if height * width > max_pixels:
        fix = "shrink the image, or raise max_pixels if you trust it"
        raise ImageTooLargeError(f"expected at most {max_pixels} pixels, got height {height} x width {width}: {fix}")


def check_array(array: NDArray[Any]) -> None:
    """Raises ImageValueError unless the array is one that `read.ImageLike` describes."""
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 2, 3, 4)):
        fix = "pass (H, W) or (H, W, C)"
        if array.ndim == 3 and shape[0] in (1, 3, 4):
            fix = "channels come first in it, use array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            fix = "pass a list of its images, list(array)"
        raise ImageValueError(f"expected an array (H, W) or (H, W, C) with 1 to 4 channels, got shape {shape}: {fix}")
    if array.dtype.kind not in "bfui" or array.dtype.newbyteorder("=") in (np.int8, np.int16):
        fix = "use array.astype('uint8') if its values are 0..255, array.astype('uint16') if they are 0..65535"
        raise ImageValueError(f"expected an array of uint8, uint16, bool or float in [0, 1], got {array.dtype}: {fix}")
    if array.size and array.dtype.kind == "f":
        check_range(float(array.min()), float(array.max()), "array")


def check_tensor(images: Tensor) -> None:
    """Raises ImageValueError unless the tensor is (3, H, W) or (B, 3, H, W), uint8 or float of any range, and has pixels."""
    check_kind(images, Tensor, name="images", fix="images.to_batch makes a batch of images", error=ImageValueError)
    check_dense(images)
    shape = tuple(images.shape)
    if images.ndim not in (3, 4) or shape[-3] != 3:
        fix = "RGB channels come before height and width"
        if images.ndim in (3, 4) and shape[-1] == 3:
            fix = f"channels come last in it, use images.permute{(2, 0, 1) if images.ndim == 3 else (0, 3, 1, 2)}"
        elif images.ndim in (3, 4) and shape[-3] == 1:
            fix = f"for grey use images.expand{(3, -1, -1) if images.ndim == 3 else (-1, 3, -1, -1)}"
        raise ImageValueError(f"expected a tensor (3, H, W) or (B, 3, H, W), got shape {shape}: {fix}")
    if images.dtype not in FLOATS and images.dtype != torch.uint8:
        from_float = images.dtype == torch.bool or images.dtype.is_floating_point
        fix = "use images.float()" if from_float else "use images.to(torch.uint8) if its values are 0..255"
        raise ImageValueError(f"expected a tensor of uint8 in 0..255 or float in [0, 1], got {images.dtype}: {fix}")
    if not images.numel():
        raise ImageValueError(f"expected at least one pixel, got shape {shape}: the tensor is empty")


def check_dense(images: Tensor) -> None:
    """Raises ImageValueError for a tensor that does not hold a number for every pixel: on the device "meta", or sparse."""
    if images.is_meta:
        raise ImageValueError('expected a tensor with pixels, got one on the device "meta": make it on "cpu" or a GPU')
    if images.layout != torch.strided:
        raise ImageValueError(f"expected a dense tensor of pixels, got {images.layout}: use images.to_dense()")


def check_finite(low: float, high: float) -> None:
    """Raises ImageValueError for extremes that are NaN or infinite."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageValueError(
            f"expected finite pixels, got {low} to {high}: look where the image is made for NaN or inf"
        )


def check_range(low: float, high: float, kind: str) -> None:
    """Raises ImageValueError for extremes of a float `kind` ("array" or "tensor") outside [0, 1] by more than rounding."""
    check_finite(low, high)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        fix = "divide by 255" if low >= 0 and high <= 255 else "undo its normalisation, or scale it to [0, 1]"
        raise ImageValueError(f"expected a float {kind} in [0, 1], got values from {low:.6g} to {high:.6g}: {fix}")


def check_stackable(tensors: list[Tensor]) -> None:
    """Raises MixedSizesError for images of several sizes, and ImageValueError for images on several devices."""
    sizes: dict[tuple[int, int], int] = {}
    for index, tensor in enumerate(tensors):
        sizes.setdefault((tensor.shape[-2], tensor.shape[-1]), index)
    if len(sizes) > 1:
        shown = ", ".join(f"{height} x {width} (image {index})" for (height, width), index in list(sizes.items())[:5])
        shown += f" and {len(sizes) - 5} more" if len(sizes) > 5 else ""
        fix = "use encode_many, which takes any sizes, or crop them alike"
        raise MixedSizesError(f"expected images of one height x width, got {shown}: {fix}")
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        raise ImageValueError(f"expected images on one device, got {', '.join(devices)}: move them to one of these")

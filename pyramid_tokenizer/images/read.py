"""Anything image-like -> batch, and back.

    path ─▶ PIL image ─▶ array ─▶ RGB planes, resized ─▶ batch (B, 3, H, W) ─▶ pad_to_multiple ─▶ the backbone
                                  tensor, resized ───────▲        └─▶ to_uint8, to_pil

The image recipe is what happens to an image before the backbone sees it. The same file gives the same tokens only under the
same recipe, so its version, `IMAGE_RECIPE_VERSION`, is part of a tokenizer's fingerprint. It covers:

    orientation     the EXIF orientation is applied
    frame           a file gives its first frame, a PIL image its current one
    colour          grey, 1-bit and palette images become RGB as Pillow converts them, CMYK too; colour profiles are ignored
    depth           8-bit values are divided by 255, 16-bit ones by 65535; floats are taken as they are; wider integers
                    are divided by 65535 or refused, see `images.integers`
    transparency    composited on white, on the stored values, without gamma
    resizing        bicubic with antialiasing, in float32, the short side to `size`, the long side rounded; clamped to [0, 1]
    padding         at the right and bottom, by repeating the last column and row (`pixels.pad_to_multiple`)

It does not cover how Pillow decompresses a file: a JPEG may differ by one step between versions of its library.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pyramid_tokenizer.errors import ImageError, ImageFileError, ImageTooLargeError, ImageValueError
from pyramid_tokenizer.files import refuse_lfs_bytes, refuse_lfs_pointer
from pyramid_tokenizer.images.checks import (
    check_array,
    check_at_least_one,
    check_dense,
    check_num_pixels,
    check_range,
    check_stackable,
    check_tensor,
    extremes,
)
from pyramid_tokenizer.images.integers import array_in_16_bits, is_wide_array, mode_i_in_16_bits, tensor_from_integers

ImageLike: TypeAlias = Image.Image | str | os.PathLike[str] | bytes | BinaryIO | NDArray[Any] | Tensor
"""A PIL image of any mode, a path, the bytes of an image file, a file object opened for bytes, an array or a tensor.

A file object is read from its start and left open.

Arrays are (H, W) or (H, W, C) with C = 1 grey, 2 grey + alpha, 3 RGB or 4 RGBA; bool, uint8 in 0..255, uint16 in
0..65535 or float in [0, 1].
Tensors are (3, H, W) or (B, 3, H, W), RGB; uint8 in 0..255, uint16 in 0..65535 or float in [0, 1].
Integers of more than 16 bits are divided by 65535 where their largest value is 256 to 65535, else refused (`images.integers`).
"""

IMAGE_RECIPE_VERSION = 1
"""Counts the changes of the recipe above. Whoever changes the pixels that an image gives raises it."""


DEFAULT_MAX_PIXELS = 89_478_485
"""Pixels that one image may have: Pillow's own warning level, a quarter of a gigabyte of 8-bit RGB."""


_ORIENTATION_TAG = 0x0112


# EXIF orientation -> what makes it upright, in this order: t(ranspose), v(ertical flip), h(orizontal flip).
_TURNS = {2: "h", 3: "vh", 4: "v", 5: "t", 6: "th", 7: "tvh", 8: "tv"}


def read_image(image: ImageLike, *, size: int | None = None, max_pixels: int = DEFAULT_MAX_PIXELS) -> Tensor:
    """One image as a tensor.

    A caller's PIL image is read at its current frame, a file at its first. Where a program has set Pillow's global
    `LOAD_TRUNCATED_IMAGES`, truncated files pass here too.

    Args:
        image: See `ImageLike`; a tensor may be (3, H, W) or (1, 3, H, W).
        size: Length of the short side in pixels, at least 1; the aspect is kept (bicubic, antialiased, up or down).
            None keeps the native size.
        max_pixels: Limit for H * W before and after resizing; a file's header is checked before anything is decoded.

    Returns:
        (3, H, W) float32 in [0, 1], RGB; on a tensor's own device. A float32 tensor that needs no change is not copied.

    Raises:
        ImageValueError: NaN, infinite or out-of-range pixels, a wrong dtype or shape, no pixels, `size` below 1.
        ImageFileError: A file is missing, empty, truncated or no image, or a PIL image fails to load.
        ImageTooLargeError: More than `max_pixels` pixels, or more than Pillow's own limit.

    Example:
        >>> import numpy as np
        >>> read_image(np.full((20, 30), 255, dtype=np.uint8), size=10).shape
        torch.Size([3, 10, 15])
    """
    check_at_least_one(size=size, max_pixels=max_pixels)
    if isinstance(image, Tensor):
        batch = _read_tensor(image, size, max_pixels)
        if len(batch) != 1:
            raise ImageValueError(
                f"expected one image, got a batch of {len(batch)}: use to_batch, or one image of it, e.g. batch[0]"
            )
        return batch[0]
    try:
        return _read_array(_to_array(image, max_pixels), size, max_pixels)
    except ImageError as error:  # of the pixels, which do not know their file
        if not isinstance(image, (str, os.PathLike)) or (name := repr(os.fspath(image))) in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error


def to_batch(
    images: ImageLike | Sequence[ImageLike], *, size: int | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Tensor:
    """One image, a batch, or a list or tuple of same-sized images, as one batch.

    Args:
        images: See `ImageLike`; items of a list are single images.
        size: Length of the short side in pixels, see `read_image`.
        max_pixels: Limit for each image, see `read_image`.

    Returns:
        (B, 3, H, W) float32 in [0, 1], RGB, in the order given. A float32 batch that needs no change is not copied.

    Raises:
        MixedSizesError: The images of a list differ in size.
        ImageValueError: An empty list, tensors on several devices, or as in `read_image`.
        ImageFileError: As in `read_image`.
        ImageTooLargeError: As in `read_image`.

    Example:
        >>> import torch
        >>> from PIL import Image
        >>> to_batch([Image.new("L", (6, 4), 255), torch.ones(3, 4, 6)]).shape
        torch.Size([2, 3, 4, 6])
    """
    if isinstance(images, Tensor):
        check_at_least_one(size=size, max_pixels=max_pixels)
        return _read_tensor(images, size, max_pixels)
    if not isinstance(images, (list, tuple)):
        return read_image(images, size=size, max_pixels=max_pixels)[None]  # type: ignore[arg-type]
    if not images:
        raise ImageValueError(
            f"expected at least one image, got an empty {type(images).__name__}: pass an image or a list of them"
        )
    tensors = []
    for index, image in enumerate(images):
        try:
            tensors.append(read_image(image, size=size, max_pixels=max_pixels))
        except ImageError as error:
            raise type(error)(f"image {index} of {len(images)}: {error}") from error
    check_stackable(tensors)
    return torch.stack(tensors)


def _to_array(image: object, max_pixels: int) -> NDArray[Any]:
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Image.Image):
        with _pillow_errors("the PIL image"):
            return _decode(image, max_pixels)
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        _check_file(path)
        # Opened here and not by Pillow, so that it is closed on every kind of failure.
        with _pillow_errors(repr(path)), open(path, "rb") as file, Image.open(file) as opened:
            return _decode(opened, max_pixels)
    if isinstance(image, (bytes, bytearray, memoryview)):
        refuse_lfs_bytes(image, name=f"{len(image)} bytes", error=ImageFileError)
        return _decode_file(io.BytesIO(image), f"{len(image)} bytes", max_pixels)
    if hasattr(image, "read"):
        return _decode_file(image, f"the file object {getattr(image, 'name', type(image).__name__)!r}", max_pixels)
    got = type(image).__name__
    fix = _FIXES.get(got, "convert it to one of these")
    raise ImageValueError(
        f"expected a PIL image, path, bytes, file object, array, tensor, or a list of these, got {got}: {fix}"
    )


_FIXES = {
    "TokenPyramid": "tokens are decoded by tok.decode(tokens), and several are joined by TokenPyramid.cat",
    "dict": 'pass the image in it, e.g. item["image"]',
    "list": "pass one image, or make an array of rows of numbers, numpy.asarray(rows, dtype='uint8')",
    "generator": "pass list(images), or use tok.encode_many(images)",
    "NoneType": "look where the image is read",
}
"""What to do with objects that are no image, by the name of their type."""


def _decode_file(file: Any, name: str, max_pixels: int) -> NDArray[Any]:
    """The array of an open file, which stays open."""
    if isinstance(file, io.TextIOBase):
        raise ImageValueError(f"expected a file object opened for bytes, got text from {name}: open it with mode 'rb'")
    with _pillow_errors(name), Image.open(file) as opened:
        return _decode(opened, max_pixels)


@contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        fix = "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS and max_pixels if you trust it"
        raise ImageTooLargeError(
            f"expected pixels within Pillow's limit, got more in {name}: {fix}; {error}"
        ) from error
    except Exception as error:  # damaged bytes make Pillow's readers raise nearly any class
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "bytes that are damaged or of no known format" if unknown else f"{type(error).__name__}: {error}"
        raise ImageFileError(f"expected a complete image, got {reason} in {name}: replace or convert it") from error


def _check_file(path: str) -> None:
    fault = None if os.path.exists(path) else "a broken link" if os.path.islink(path) else "no file"
    fault = fault or ("a directory" if os.path.isdir(path) else None if os.path.getsize(path) else "an empty file")
    if fault:
        raise ImageFileError(f"expected an image file, got {fault} at {path!r}: check the path, or write it again")
    refuse_lfs_pointer(path, error=ImageFileError)


def _decode(image: Image.Image, max_pixels: int) -> NDArray[Any]:
    """(H, W) or (H, W, C) array of a PIL image, upright; C = 2 and 4 carry alpha."""
    check_num_pixels(image.height, image.width, max_pixels)
    image.load()  # first, for the mode and the transparency may come with the pixels
    if image.mode == "I":
        array = mode_i_in_16_bits(np.asarray(image), image.format)
    elif image.mode.startswith("I;16") or image.mode in ("1", "F"):
        array = np.asarray(image)
    elif image.has_transparency_data:
        array = np.asarray(image.convert("LA" if image.mode in ("LA", "La") else "RGBA"))
    else:
        array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return _upright(array, image)


def _upright(array: NDArray[Any], image: Image.Image) -> NDArray[Any]:
    """A view of the array, turned as the image's EXIF says."""
    try:  # after load(): Pillow turns TIFFs itself, and a PNG may keep its EXIF behind the pixels
        turns = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1), "")
    except Exception:  # broken EXIF is common; viewers show such an image as it is stored
        turns = ""
    array = array.swapaxes(0, 1) if "t" in turns else array
    return array[:: -1 if "v" in turns else 1, :: -1 if "h" in turns else 1]


def _read_array(array: NDArray[Any], size: int | None, max_pixels: int) -> Tensor:
    check_array(array)
    array = array_in_16_bits(array) if is_wide_array(array) else array
    array = array[..., None] if array.ndim == 2 else array
    height, width, channels = array.shape
    check_num_pixels(height, width, max_pixels)
    target = _target_size(height, width, size, max_pixels)
    alpha = _plane(array[..., -1]) if channels in (2, 4) else None
    image = torch.empty(3, *target, dtype=torch.float32, device="cpu")
    # Plane by plane: an 8000 x 6000 photo to be resized needs one float plane (192 MB) beside its bytes, not three.
    for channel in range(3 if channels >= 3 else 1):
        plane = _plane(array[..., channel])
        if alpha is not None:
            plane = torch.lerp(plane.new_ones(()), plane, alpha)  # on white; exact where alpha is 0 or 1
        image[channel] = _resize(plane[None, None], target)[0, 0]
    if channels < 3:
        image[1:] = image[0]
    return image


def _plane(values: NDArray[Any]) -> Tensor:
    """(H, W) float32 in [0, 1]; numpy divides, for torch takes no flipped, read-only or big-endian arrays."""
    scale = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
    plane = torch.from_numpy(np.divide(values, scale, dtype=np.float32, order="C"))
    return plane.clamp_(0, 1) if values.dtype.kind == "f" else plane


def _read_tensor(images: Tensor, size: int | None, max_pixels: int) -> Tensor:
    check_dense(images)
    images = tensor_from_integers(images)
    check_tensor(images)
    height, width = images.shape[-2:]
    check_num_pixels(height, width, max_pixels)
    batch = (images[None] if images.ndim == 3 else images).float()
    if images.dtype == torch.uint8:
        # By a tensor: a GPU divides by a Python number as by its rounded inverse, and arrays would give other pixels.
        batch = batch / batch.new_full((), 255)
    elif torch.compiler.is_compiling():
        batch = batch.clamp(0, 1)  # a graph cannot branch on pixel values; docs/export.md says so
    else:
        low, high = extremes(images)
        check_range(low, high, "tensor")
        batch = batch if low >= 0 and high <= 1 else batch.clamp(0, 1)
    return _resize(batch, _target_size(height, width, size, max_pixels))


def _target_size(height: int, width: int, size: int | None, max_pixels: int) -> tuple[int, int]:
    if size is None:
        return height, width
    short = min(height, width)
    target = round(height * size / short), round(width * size / short)
    check_num_pixels(*target, max_pixels)  # a long, thin strip can grow without bound
    return target


def resize_to(image: Tensor, target: tuple[int, int]) -> Tensor:
    """One image resized by the recipe's kernel: (3, H, W) float32 in [0, 1] -> (3, *target)."""
    return _resize(image[None], target)[0]


def _resize(images: Tensor, target: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == target:
        return images
    return F.interpolate(images, target, mode="bicubic", antialias=True).clamp(0, 1)  # bicubic overshoots at edges

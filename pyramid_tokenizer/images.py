"""Anything image-like -> batch, and back.

    path ─▶ PIL image ─▶ array ─▶ RGB planes, resized ─▶ batch (B, 3, H, W) ─▶ pad_to_multiple ─▶ the backbone
                                  tensor, resized ───────▲        └─▶ to_uint8, to_pil

What a person expects of odd pictures: the EXIF orientation is applied; grey, 1-bit, palette and CMYK become RGB; 16-bit
grey is scaled, not clipped; transparency is composited on white; an animated file gives its first frame. Embedded
colour profiles are ignored.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pyramid_tokenizer.errors import ImageError, ImageFileError, ImageTooLargeError, ImageValueError, MixedSizesError

ImageLike: TypeAlias = Image.Image | str | os.PathLike[str] | NDArray[Any] | Tensor
"""A PIL image of any mode, a path, an array or a tensor.

Arrays are (H, W) or (H, W, C) with C = 1 grey, 2 grey + alpha, 3 RGB or 4 RGBA; bool, uint8 in 0..255, uint16 in
0..65535 or float in [0, 1].
Tensors are (3, H, W) or (B, 3, H, W) float in [0, 1], RGB.
"""

DEFAULT_MAX_PIXELS = 89_478_485
"""Pixels that one image may have: Pillow's own warning level, a quarter of a gigabyte of 8-bit RGB."""

# How far floats may leave [0, 1] and still be taken as rounding, e.g. after a resize; they are clamped.
_ROUNDING = 1e-4
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
        (3, H, W) float32 in [0, 1], RGB; on a tensor's own device. A float32 tensor comes back uncopied.

    Raises:
        ImageValueError: NaN, infinite or out-of-range pixels, a wrong dtype or shape, no pixels, `size` below 1.
        ImageFileError: A file is missing, empty, truncated or no picture, or a PIL image fails to load.
        ImageTooLargeError: More than `max_pixels` pixels, or more than Pillow's own limit.

    Example:
        >>> import numpy as np
        >>> read_image(np.full((20, 30), 255, dtype=np.uint8), size=10).shape
        torch.Size([3, 10, 15])
    """
    _check_at_least_one(size=size, max_pixels=max_pixels)
    if isinstance(image, Tensor):
        batch = _read_tensor(image, size, max_pixels)
        if len(batch) != 1:
            raise ImageValueError(
                f"expected one image, got a batch of {len(batch)}: use to_batch, or one image of it, e.g. batch[0]"
            )
        return batch[0]
    return _read_array(_to_array(image, max_pixels), size, max_pixels)


def to_batch(
    images: ImageLike | Sequence[ImageLike], *, size: int | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Tensor:
    """One image, a batch, or a list or tuple of same-sized images, as one batch.

    Args:
        images: See `ImageLike`; items of a list are single images.
        size: Length of the short side in pixels, see `read_image`.
        max_pixels: Limit for each image, see `read_image`.

    Returns:
        (B, 3, H, W) float32 in [0, 1], RGB, in the order given. A float32 tensor batch comes back uncopied.

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
        _check_at_least_one(size=size, max_pixels=max_pixels)
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
    _check_stackable(tensors)
    return torch.stack(tensors)


def pad_to_multiple(batch: Tensor, *, multiple: int) -> Tensor:
    """The batch padded at the right and bottom by repeating its last column and row; `[..., :H, :W]` inverts it.

    Args:
        batch: (B, C, H, W) float, H and W at least 1.
        multiple: What the sides become multiples of, at least 1; the coarsest stride.

    Returns:
        (B, C, H', W') of the same dtype, H' and W' the next multiples; `batch` itself when nothing is to be padded.

    Raises:
        ImageValueError: `batch` is not four-dimensional or has no pixels, or `multiple` is below 1.

    Example:
        >>> import torch
        >>> pad_to_multiple(torch.tensor([[[[1.0, 2.0]]]]), multiple=3)[0, 0].tolist()
        [[1.0, 2.0, 2.0], [1.0, 2.0, 2.0], [1.0, 2.0, 2.0]]
    """
    _check_at_least_one(multiple=multiple)
    if batch.ndim != 4 or batch.numel() == 0:
        raise ImageValueError(f"expected a batch (B, C, H, W) with pixels, got shape {tuple(batch.shape)}: reshape it")
    bottom, right = -batch.shape[-2] % multiple, -batch.shape[-1] % multiple
    if not bottom and not right:
        return batch
    return F.pad(batch, (0, right, 0, bottom), mode="replicate")


def to_uint8(images: Tensor) -> Tensor:
    """8-bit values of images: rounded to the nearest, values outside [0, 1] clamped.

    Args:
        images: (3, H, W) or (B, 3, H, W) float, nominally in [0, 1].

    Returns:
        The same shape and device, uint8 in 0..255, without gradient.

    Raises:
        ImageValueError: A wrong shape or dtype, no pixels, NaN or infinite pixels.

    Example:
        >>> import torch
        >>> to_uint8(torch.tensor([-0.2, 0.499, 1.0]).reshape(3, 1, 1)).flatten().tolist()
        [0, 127, 255]
    """
    _check_tensor(images)
    _check_finite(*_extremes(images))
    # float32 first, a bfloat16 product is rounded already; truncating would darken the picture at every round trip.
    return images.detach().float().mul(255).round_().clamp_(0, 255).to(torch.uint8)


def to_pil(images: Tensor) -> list[Image.Image]:
    """8-bit RGB pictures of images, rounded and clamped as in `to_uint8`.

    Args:
        images: (3, H, W) or (B, 3, H, W) float, nominally in [0, 1].

    Returns:
        B pictures in mode "RGB"; one for (3, H, W).

    Raises:
        ImageValueError: A wrong shape or dtype, no pixels, NaN or infinite pixels.

    Example:
        >>> import torch
        >>> to_pil(torch.ones(2, 3, 4, 6))[0].size
        (6, 4)
    """
    pixels = to_uint8(images)
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    return [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()]  # (H, W, 3) each


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
    got = type(image).__name__
    raise ImageValueError(f"expected a PIL image, path, array, tensor, or a list of these, got {got}: convert it")


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
        raise ImageFileError(f"expected a complete picture, got {reason} in {name}: replace or convert it") from error


def _check_file(path: str) -> None:
    fault = None if os.path.exists(path) else "no file"
    fault = fault or ("a directory" if os.path.isdir(path) else None if os.path.getsize(path) else "an empty file")
    if fault:
        raise ImageFileError(f"expected an image file, got {fault} at {path!r}: check the path, or write it again")


def _decode(image: Image.Image, max_pixels: int) -> NDArray[Any]:
    """(H, W) or (H, W, C) array of a PIL image, upright; C = 2 and 4 carry alpha."""
    _check_num_pixels(image.height, image.width, max_pixels)
    image.load()  # first, for the mode and the transparency may come with the pixels
    if image.mode == "I":
        array = _from_32_bit(np.asarray(image))
    elif image.mode.startswith("I;16") or image.mode in ("1", "F"):
        array = np.asarray(image)
    elif image.has_transparency_data:
        array = np.asarray(image.convert("LA" if image.mode in ("LA", "La") else "RGBA"))
    else:
        array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return _upright(array, image)


def _from_32_bit(array: NDArray[Any]) -> NDArray[Any]:
    # Pillow opens 16-bit PGM (once also PNG) in its 32-bit mode; its own conversion to 8 bits would clip at 255.
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise ImageValueError(f'expected 0..65535 in PIL mode "I", got {low}..{high}: pass a float array in [0, 1]')
    return array.astype(np.uint16)


def _upright(array: NDArray[Any], image: Image.Image) -> NDArray[Any]:
    """A view of the array, turned as the image's EXIF says."""
    try:  # after load(): Pillow turns TIFFs itself, and a PNG may keep its EXIF behind the pixels
        turns = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1), "")
    except Exception:  # broken EXIF is common; viewers show such a picture as it is stored
        turns = ""
    array = array.swapaxes(0, 1) if "t" in turns else array
    return array[:: -1 if "v" in turns else 1, :: -1 if "h" in turns else 1]


def _read_array(array: NDArray[Any], size: int | None, max_pixels: int) -> Tensor:
    _check_array(array)
    array = array[..., None] if array.ndim == 2 else array
    height, width, channels = array.shape
    _check_num_pixels(height, width, max_pixels)
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
    _check_tensor(images)
    height, width = images.shape[-2:]
    _check_num_pixels(height, width, max_pixels)
    low, high = _extremes(images)
    _check_range(low, high, "tensor")
    batch = (images[None] if images.ndim == 3 else images).float()
    batch = batch if low >= 0 and high <= 1 else batch.clamp(0, 1)
    return _resize(batch, _target_size(height, width, size, max_pixels))


def _target_size(height: int, width: int, size: int | None, max_pixels: int) -> tuple[int, int]:
    if size is None:
        return height, width
    short = min(height, width)
    target = round(height * size / short), round(width * size / short)
    _check_num_pixels(*target, max_pixels)  # a long, thin strip can grow without bound
    return target


def _resize(images: Tensor, target: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == target:
        return images
    return F.interpolate(images, target, mode="bicubic", antialias=True).clamp(0, 1)  # bicubic overshoots at edges


def _extremes(images: Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(images.detach())
    return float(low), float(high)


def _check_at_least_one(**values: int | None) -> None:
    for name, value in values.items():
        right = isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1
        if not right and not (value is None and name == "size"):
            raise ImageValueError(f"expected {name} as a whole number of at least 1, got {value!r}: correct {name}")


def _check_num_pixels(height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise ImageValueError(f"expected at least 1 x 1 pixel, got height {height}, width {width}: the image is empty")
    if height * width > max_pixels:
        fix = "shrink the image, or raise max_pixels if you trust it"
        raise ImageTooLargeError(f"expected at most {max_pixels} pixels, got height {height} x width {width}: {fix}")


def _check_array(array: NDArray[Any]) -> None:
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 2, 3, 4)):
        fix = "pass (H, W) or (H, W, C)"
        if array.ndim == 3 and shape[0] in (1, 3, 4):
            fix = "channels come first in it, use array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            fix = "pass a list of its images, list(array)"
        raise ImageValueError(f"expected an array (H, W) or (H, W, C) with 1 to 4 channels, got shape {shape}: {fix}")
    if array.dtype.kind not in "bf" and array.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        fix = "use array.astype('uint8') if its values are 0..255"
        raise ImageValueError(f"expected an array of uint8, uint16, bool or float in [0, 1], got {array.dtype}: {fix}")
    if array.size and array.dtype.kind == "f":
        _check_range(float(array.min()), float(array.max()), "array")


def _check_tensor(images: Tensor) -> None:
    shape = tuple(images.shape)
    if images.ndim not in (3, 4) or shape[-3] != 3:
        fix = "RGB channels come before height and width"
        if images.ndim in (3, 4) and shape[-1] == 3:
            fix = f"channels come last in it, use images.permute{(2, 0, 1) if images.ndim == 3 else (0, 3, 1, 2)}"
        elif images.ndim in (3, 4) and shape[-3] == 1:
            fix = f"for grey use images.expand{(3, -1, -1) if images.ndim == 3 else (-1, 3, -1, -1)}"
        raise ImageValueError(f"expected a tensor (3, H, W) or (B, 3, H, W), got shape {shape}: {fix}")
    if not images.dtype.is_floating_point:
        raise ImageValueError(f"expected a float tensor in [0, 1], got {images.dtype}: divide 0..255 by 255")
    if not images.numel():
        raise ImageValueError(f"expected at least one pixel, got shape {shape}: the tensor is empty")


def _check_finite(low: float, high: float) -> None:
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageValueError(
            f"expected finite pixels, got {low} to {high}: look where the image is made for NaN or inf"
        )


def _check_range(low: float, high: float, kind: str) -> None:
    _check_finite(low, high)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        fix = "divide by 255" if low >= 0 and high <= 255 else "undo its normalisation, or scale it to [0, 1]"
        raise ImageValueError(f"expected a float {kind} in [0, 1], got values from {low:.6g} to {high:.6g}: {fix}")


def _check_stackable(tensors: list[Tensor]) -> None:
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

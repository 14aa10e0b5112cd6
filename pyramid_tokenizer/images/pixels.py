"""Batches of pixels: padding to a multiple, 8-bit values, PIL images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pyramid_tokenizer.errors import ImageValueError
from pyramid_tokenizer.images.checks import check_at_least_one, check_finite, check_tensor, extremes


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
    check_at_least_one(multiple=multiple)
    if batch.ndim != 4 or batch.numel() == 0:
        raise ImageValueError(f"expected a batch (B, C, H, W) with pixels, got shape {tuple(batch.shape)}: reshape it")
    bottom, right = -batch.shape[-2] % multiple, -batch.shape[-1] % multiple
    if not bottom and not right:
        return batch
    return F.pad(batch, (0, right, 0, bottom), mode="replicate")


def to_uint8(images: Tensor) -> Tensor:
    """8-bit values of tensors: rounded to the nearest, values outside [0, 1] clamped.

    Args:
        images: (3, H, W) or (B, 3, H, W) float, nominally in [0, 1]; uint8 comes back as it is.

    Returns:
        The same shape and device, uint8 in 0..255, without gradient.

    Raises:
        ImageValueError: A wrong shape or dtype, no pixels, NaN or infinite pixels.

    Example:
        >>> import torch
        >>> to_uint8(torch.tensor([-0.2, 0.499, 1.0]).reshape(3, 1, 1)).flatten().tolist()
        [0, 127, 255]
    """
    check_tensor(images)
    if images.dtype == torch.uint8:
        return images
    check_finite(*extremes(images))
    # float32 first, a bfloat16 product is rounded already; truncating would darken the image at every round trip.
    return images.detach().float().mul(255).round_().clamp_(0, 255).to(torch.uint8)


def to_pil(images: Tensor) -> list[Image.Image]:
    """PIL images of tensors, rounded and clamped as in `to_uint8`.

    Args:
        images: (3, H, W) or (B, 3, H, W) float, nominally in [0, 1], or uint8 in 0..255.

    Returns:
        B images in mode "RGB"; one for (3, H, W).

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

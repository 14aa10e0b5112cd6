"""`psnr`, `ssim` and `ms_ssim` of pairs of images, one value per pair, on pixels rounded to 8 bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_kind
from pyramid_tokenizer.errors import ImageValueError, MissingExtraError
from pyramid_tokenizer.images.pixels import to_uint8

SSIM_WINDOW_PX = 11
"""Side of the Gaussian window: sigma 1.5, cut at 3.5 sigma, as in the paper."""


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Computes the peak signal-to-noise ratio of each pair in dB: 10 log10(255^2 / MSE) over all pixels and channels.

    Args:
        a: (B, 3, H, W) float in [0, 1] or uint8 in 0..255; floats are rounded to 8 bit before the comparison.
        b: A batch of the same shape, dtype and range.

    Returns:
        (B,) float64 on the CPU; infinite for a pair that is equal in 8 bit. To report a data set, take the mean of these values
        (it differs from the PSNR of the mean error).

    Raises:
        ImageValueError: Different shapes, not (B, 3, H, W) float, or values outside [0, 1].

    Example:
        >>> black = torch.zeros(1, 3, 2, 2)
        >>> psnr(black, torch.full_like(black, 0.1)).round(decimals=2).item()  # 0.1 is 26 of 255
        19.83
    """
    left, right = _pair_to_8_bit(a, b)
    error = (left.double() - right.double()).square().flatten(1).mean(1)  # (B,)
    return 10 * torch.log10(255.0**2 / error)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Computes the structural similarity of each pair with the settings of the original paper, by scikit-image.

    The window is a Gaussian of 11x11 px (sigma 1.5), the covariance is that of the population, K1 is 0.01, K2 is 0.03 and the
    range of 8-bit pixels is 255. SSIM is computed per RGB channel and averaged; a border of 5 px is left out of the mean.

    Args:
        a: (B, 3, H, W) float in [0, 1] or uint8 in 0..255, H and W >= 11; floats are rounded to 8 bit before the comparison.
        b: A batch of the same shape, dtype and range.

    Returns:
        (B,) float64 on the CPU, in [-1, 1]; 1 for a pair that is equal.

    Raises:
        ImageValueError: Different shapes, not (B, 3, H, W) of float or uint8, values outside [0, 1], or a side shorter than
            the window.
        MissingExtraError: scikit-image is not installed.

    Source: Z. Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), section III.

    Example:
        >>> ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
        >>> ssim(ramp, ramp).item()
        1.0
    """
    left, right = _pair_to_8_bit(a, b)
    if min(left.shape[-2:]) < SSIM_WINDOW_PX:
        got = tuple(left.shape[-2:])
        raise ImageValueError(
            f"expected sides of at least {SSIM_WINDOW_PX} px, SSIM's window, got {got}: use psnr for smaller images"
        )
    structural_similarity = _structural_similarity()
    settings: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    values = [
        structural_similarity(x.numpy(), y.numpy(), data_range=255, channel_axis=0, **settings)
        for x, y in zip(left, right, strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64)


MS_SSIM_LEAST_PX = 16 * SSIM_WINDOW_PX
"""Least side of an image for `ms_ssim`: at the coarsest of its five scales, 16 times smaller, the window must fit."""


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Computes the multi-scale structural similarity of each pair by torchmetrics: five scales, the window of `ssim`.

    Args:
        a: (B, 3, H, W) float in [0, 1] or uint8 in 0..255, H and W >= 176; floats are rounded to 8 bit before the comparison.
        b: A batch of the same shape, dtype and range.

    Returns:
        (B,) float64 on the CPU, in [0, 1]; negative terms count as 0.

    Raises:
        ImageValueError: As for `ssim`, or a side is shorter than 176 px.
        MissingExtraError: torchmetrics is not installed.

    Source: Z. Wang, E. Simoncelli, A. Bovik, "Multi-scale structural similarity for image quality assessment" (2003).
    """
    left, right = _pair_to_8_bit(a, b)
    if min(left.shape[-2:]) < MS_SSIM_LEAST_PX:
        raise ImageValueError(
            f"expected sides of at least {MS_SSIM_LEAST_PX} px for MS-SSIM, got {tuple(left.shape[-2:])}: use ssim for smaller "
            "images"
        )
    similarity = torchmetrics_images().multiscale_structural_similarity_index_measure
    # one by one: equal in every batch; float32, for in float64 a pair of 256 px takes 1.1 s instead of .09 s and differs by 1e-6
    pairs = zip(left.float().split(1), right.float().split(1), strict=True)
    found = [similarity(x, y, data_range=255.0, normalize="relu", reduction="none")[0] for x, y in pairs]
    return torch.stack(found).double()


def torchmetrics_images() -> Any:
    """The module `torchmetrics.functional.image`.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import torchmetrics.functional.image as module
    except ImportError as error:
        raise MissingExtraError(
            'expected torchmetrics for MS-SSIM and LPIPS, got none: pip install "pyramid-tokenizer[eval]"'
        ) from error
    return module


def _pair_to_8_bit(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (B, 3, H, W) uint8 on the CPU."""
    for images in (a, b):
        check_kind(images, Tensor, name="images", fix="images.to_batch makes a batch of images", error=ImageValueError)
    if a.shape != b.shape:
        raise ImageValueError(
            f"expected two batches of one shape, got {tuple(a.shape)} and {tuple(b.shape)}: crop or resize one"
        )
    return _to_8_bit(a), _to_8_bit(b)


def _to_8_bit(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[1] != 3 or not (images.is_floating_point() or images.dtype == torch.uint8):
        raise ImageValueError(
            f"expected (B, 3, H, W) of uint8 or float, got {tuple(images.shape)} {images.dtype}: convert the images"
        )
    if images.is_floating_point() and not bool(((images >= 0) & (images <= 1)).all()):  # also catches NaN
        raise ImageValueError("expected pixels in [0, 1], got others or NaN: clamp them, or divide 8-bit pixels by 255")
    return to_uint8(images).cpu()


def _structural_similarity() -> Callable[..., Any]:
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingExtraError(
            'expected scikit-image for SSIM, got none: pip install "pyramid-tokenizer[eval]"'
        ) from error
    return structural_similarity

"""Baselines for an image tokenizer at the same rate: thumbnails, k-means on raw patches, and image codecs.

Images are (N, 3, H, W) uint8 RGB everywhere. Every baseline returns `Coded` images: the decoded images and their bits. The
bits of a codebook of patches are not counted, as the weights of a tokenizer are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pyramid_tokenizer.evaluation.codecs import CODECS, decode_files, encode_files, rates
from pyramid_tokenizer.evaluation.crops import centre_crop
from pyramid_tokenizer.quantizer.fit.kmeans import kmeans
from pyramid_tokenizer.quantizer.nearest import nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class Coded:
    """Decoded images and their rate."""

    images: Tensor
    """(N, 3, H, W) uint8."""
    bits_per_pixel: float
    """Mean over the images."""


def load_images(folder: Path, *, side: int = 256, limit: int | None = None) -> Tensor:
    """Centre crops of the images in a folder, in the order of their names.

    Args:
        folder: Holds .jpg or .png files.
        side: The short side is resized to this many pixels (bicubic), then the centre is cropped square.
        limit: Take only the first ones.

    Returns:
        (N, 3, side, side) uint8.

    Raises:
        FileNotFoundError: The folder has no images.
    """
    return torch.stack([centre_crop(_open(path), side) for path in _image_files(folder)[:limit]])


def _image_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise FileNotFoundError(f"expected images in {folder}, got none: give a folder of .jpg or .png files")
    return files


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (3, H, W)


def _to_image(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def thumbnails(images: Tensor, side: int) -> Coded:
    """Images shrunk to side x side pixels of 24 bit and enlarged again, both bicubic."""

    def shrink_and_enlarge(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        small = _to_image(image).resize((side, side), Image.Resampling.BICUBIC)
        return _to_tensor(small.resize((width, height), Image.Resampling.BICUBIC))

    coded = torch.stack([shrink_and_enlarge(image) for image in images])
    return Coded(images=coded, bits_per_pixel=24 * side**2 / (images.shape[-2] * images.shape[-1]))


def random_patches(folder: Path, count: int, *, size: int = 8, seed: int = 0) -> Tensor:
    """(count, 3 * size^2) float in [0, 1]: patches from random places of all images of a folder, as many of each."""
    files = _image_files(folder)
    generator = torch.Generator().manual_seed(seed)
    per_file = -(-count // len(files))
    patches = [_patches_of(_to_tensor(_open(path)), per_file, size, generator) for path in files]
    rows = torch.cat(patches)
    return rows[torch.randperm(len(rows), generator=generator)[:count]].float() / 255


def _patches_of(image: Tensor, count: int, size: int, generator: torch.Generator) -> Tensor:
    height, width = image.shape[-2:]
    tops = torch.randint(height - size + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(width - size + 1, (count,), generator=generator).tolist()
    return torch.stack([image[:, y : y + size, x : x + size].flatten() for y, x in zip(tops, lefts, strict=True)])


def patch_codebook(patches: Tensor, num_codes: int, *, iterations: int = 10, seed: int = 0) -> Tensor:
    """(num_codes, 3 * size^2) centres of k-means on raw patches."""
    return kmeans(patches, num_codes, iterations=iterations, generator=torch.Generator().manual_seed(seed))


def reconstruct_with_patches(images: Tensor, codebook: Tensor, *, size: int = 8) -> Coded:
    """Images whose every size x size patch is replaced by the nearest entry; log2(K) bits a patch."""
    count, channels, height, width = images.shape
    rows, columns = height // size, width // size
    cells = images.view(count, channels, rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
    ids = nearest(cells.reshape(-1, channels * size**2).float() / 255, codebook)  # (N * rows * columns,)
    pixels_of = (codebook * 255).round().clamp(0, 255).to(torch.uint8)[ids]
    pixels_of = pixels_of.view(count, rows, columns, channels, size, size).permute(0, 3, 1, 4, 2, 5)
    return Coded(
        images=pixels_of.reshape(count, channels, height, width), bits_per_pixel=float(np.log2(len(codebook))) / size**2
    )


def nearest_rate(
    images: Tensor, codec: str, target: float, *, report: Callable[[int, float], None] | None = None
) -> tuple[int, Coded]:
    """The one quality for all images whose mean rate comes nearest to a target, found by bisection.

    Args:
        images: (N, 3, H, W) uint8.
        codec: One of `CODECS`.
        target: Bits per pixel. If a codec cannot reach it, its lowest quality is returned.
        report: Called with each tried quality and its rate.

    Returns:
        The quality, and the images coded with it.
    """
    tried: dict[int, list[bytes]] = {}

    def rate(quality: int) -> float:
        if quality not in tried:
            tried[quality] = encode_files(images, codec, quality)
            if report is not None:
                report(quality, float(rates(tried[quality], images).mean()))
        return float(rates(tried[quality], images).mean())

    qualities = CODECS[codec][1]
    low, high = qualities[0], qualities[-1]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if rate(middle) <= target else (low, middle)
    for quality in (low, high):
        rate(quality)
    quality = min(
        tried, key=lambda q: abs(rate(q) - target)
    )  # of all tried: rates can dip by a few bytes as quality rises
    return quality, Coded(images=decode_files(tried[quality]), bits_per_pixel=rate(quality))

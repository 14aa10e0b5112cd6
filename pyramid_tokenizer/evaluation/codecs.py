"""Image codecs to compare tokens with: whole files of JPEG, WebP and AVIF, as Pillow writes them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

CODECS: dict[str, tuple[str, range, dict[str, Any]]] = {
    "JPEG": ("jpg", range(1, 96), {"optimize": True}),
    "WebP": ("webp", range(101), {"method": 6}),
    "AVIF": ("avif", range(101), {"speed": 4}),
}
"""Pillow's feature name, all qualities (coarse to fine), and the slow settings that make the smaller files."""


def has_codec(codec: str) -> bool:
    """Whether this Pillow can write the codec."""
    return bool(features.check(CODECS[codec][0]))


def encode_files(images: Tensor, codec: str, quality: int) -> list[bytes]:
    """Each image (N, 3, H, W) uint8 as a whole file, headers included, without metadata."""
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format=codec, quality=quality, **CODECS[codec][2])
        files.append(buffer.getvalue())
    return files


def decode_files(files: list[bytes]) -> Tensor:
    """(N, 3, H, W) uint8 of files of one size.

    Example:
        >>> decode_files(encode_files(torch.full((1, 3, 16, 16), 200, dtype=torch.uint8), "JPEG", 50)).float().mean().item()
        200.0
    """
    images = []
    for file in files:
        with Image.open(io.BytesIO(file)) as image:
            images.append(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous())
    return torch.stack(images)


def rates(files: list[bytes], images: Tensor) -> Tensor:
    """(N,) float64: bits per pixel of each file."""
    height, width = images.shape[-2:]
    return torch.tensor([8 * len(file) / (height * width) for file in files], dtype=torch.float64)

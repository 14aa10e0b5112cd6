"""How many crops the gradient-free fit of a training draws: of few images more of each, so that every code has cells."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import ConfigError

CROPS_PER_IMAGE = 8
"""Crops of one image where these give the codebooks enough cells; further ones overlap those before."""
CELLS_PER_CODE = 2
"""Of fewer images so many crops are drawn that every level has this many cells for each of its codes."""


def crops_for(codebook_sizes: Sequence[int], strides: Sequence[int], *, crop_px: int, cells_per_code: int) -> int:
    """The number of crops that give every level so many cells for each of its codes.

    Args:
        codebook_sizes: K_l per level.
        strides: s_l per level, in pixels.
        crop_px: Side of a crop in pixels, a multiple of every stride.
        cells_per_code: Cells for each code.

    Example:
        >>> crops_for((4096, 4096), (32, 8), crop_px=128, cells_per_code=2)
        512
    """
    levels = zip(codebook_sizes, strides, strict=True)
    return max(math.ceil(cells_per_code * size / (crop_px // stride) ** 2) for size, stride in levels)


def fit_batches(
    config: TrainConfig, *, num_images: int, codebook_sizes: Sequence[int], strides: Sequence[int], refit: bool
) -> int:
    """Number of batches of crops for the gradient-free fit; a warning tells where each image gives more crops than usual.

    Args:
        config: Has the largest number of crops, and their size and number in a batch.
        num_images: Images in the source.
        codebook_sizes: K_l per level.
        strides: s_l per level, in pixels.
        refit: Whether there are codebooks already, which could stay as they are.

    Raises:
        ConfigError: `config.fit_images` are too few for one cell per code.

    Example:
        >>> from pyramid_tokenizer.config.training import TrainConfig
        >>> levels = {"codebook_sizes": (64, 256), "strides": (32, 8)}
        >>> fit_batches(TrainConfig(batch_size=4, crop_px=32), num_images=100, refit=True, **levels)
        200
    """

    def batches(cells_per_code: int) -> int:
        crops = crops_for(codebook_sizes, strides, crop_px=config.crop_px, cells_per_code=cells_per_code)
        return math.ceil(crops / config.batch_size)

    most = max(1, config.fit_images // config.batch_size)
    if most < batches(1):
        raise ConfigError(
            f"expected fit_images (--fit-images) of at least {batches(1) * config.batch_size}, which give codebooks of "
            f"{tuple(codebook_sizes)} entries a cell for each, got {config.fit_images}: raise it or leave it out"
        )
    usual = max(1, min(config.fit_images, CROPS_PER_IMAGE * num_images) // config.batch_size)
    needed = min(most, batches(CELLS_PER_CODE))
    if needed > usual:
        _tell(num_images, needed * config.batch_size, max(codebook_sizes), refit=refit)
    return max(usual, needed)


def _tell(num_images: int, num_crops: int, codebook_size: int, *, refit: bool) -> None:
    images = f"{num_images} image{'s' if num_images > 1 else ''}"
    advice = '; to keep the codebooks as they are, use codebooks="frozen" (--codebooks frozen)' if refit else ""
    warnings.warn(
        f"the codebooks of up to {codebook_size} entries are fitted on {num_crops} overlapping crops of {images}, about "
        f"{num_crops // num_images} of each instead of {CROPS_PER_IMAGE}, and will suit other images less well than these"
        f"{advice}",
        stacklevel=7,
    )

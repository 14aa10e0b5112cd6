"""Synthetic images made by whole numbers alone, the same bytes on every machine: to compare what different devices compute."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SCALES = (64, 32, 16, 8, 4)
"""Pixels between the random values that are interpolated; coarse structure is the strongest, as in photos."""


def synthetic_images(count: int, height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Images of smooth colours, a disc, stripes and a bright bar: structure of every scale, sharp edges included.

    Args:
        count: Number of images, at least 1.
        height: In pixels.
        width: In pixels.
        seed: Other images for another seed; the first images of a seed do not depend on `count`.

    Returns:
        (count, 3, height, width) uint8.

    Example:
        >>> images = synthetic_images(2, 48, 64)
        >>> images.shape, bool((synthetic_images(1, 48, 64)[0] == images[0]).all())
        ((2, 3, 48, 64), True)
    """
    return np.stack([_image(height, width, np.random.default_rng([seed, index])) for index in range(count)])


def _image(height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    total = np.zeros((3, height, width), dtype=np.int64)
    for scale in _SCALES:
        total += scale * _lattice(height, width, scale, rng)
    image = total // sum(_SCALES)  # (3, H, W) in 0..255
    image = np.clip((image - 128) * 2 + 128, 0, 255)
    y, x = np.mgrid[:height, :width]
    across, down, radius = (int(value) for value in rng.integers(1, [width, height, max(2, min(height, width) // 3)]))
    disc = (y - down) ** 2 + (x - across) ** 2 < radius**2
    image = np.where(disc, rng.integers(0, 256, (3, 1, 1)), image)
    period, slope = (int(value) for value in rng.integers([3, -2], [12, 3]))
    stripes = ((x + slope * y) // period % 2 == 0) & (y < height // 3) & (x > width // 2)
    image = np.where(stripes, 255 - image, image)
    bar = (abs(y - 2 * height // 3) < 3) & (x % 17 < 11)
    return np.where(bar, 250, image).astype(np.uint8)


def _lattice(height: int, width: int, scale: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(3, H, W) in 0..255: random values every `scale` pixels, interpolated bilinearly in whole numbers."""
    values = rng.integers(0, 256, (3, height // scale + 2, width // scale + 2))
    (row, down), (column, across) = (divmod(np.arange(side), scale) for side in (height, width))
    rows = values[:, row] * (scale - down)[:, None] + values[:, row + 1] * down[:, None]
    return (rows[..., column] * (scale - across) + rows[..., column + 1] * across) // scale**2

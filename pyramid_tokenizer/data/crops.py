"""Image files -> random crops that depend on the step's number alone, so that a resumed run sees what it would have seen."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from pyramid_tokenizer.errors import DataError, ImageError, ImageTooLargeError
from pyramid_tokenizer.images import DEFAULT_MAX_PIXELS, read_image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
_LOGGER = logging.getLogger(__name__)
ATTEMPTS = 100
"""Unreadable files in a row after which a step gives up."""


def find_images(source: str | Path) -> list[Path]:
    """All image files below a folder, sorted by path; for a .txt file, the paths it lists, one a line.

    Args:
        source: A folder, or a UTF-8 list; relative paths in it start at its own folder.

    Raises:
        DataError: The source does not exist or holds no image file.
    """
    source = Path(source)
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    elif source.is_file() and source.suffix == ".txt":
        files = [
            source.parent / line.strip() for line in source.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    else:
        raise DataError(
            f"expected a folder of images or a .txt list of files, got {str(source)!r}: no such folder or list"
        )
    if not files:
        raise DataError(f"expected images ({', '.join(sorted(SUFFIXES))}) in {str(source)!r}, got none: check the path")
    return files


class RandomCrops(Dataset[Tensor]):
    """Item `step` is that step's batch: (B, 3, crop, crop) float32 in [0, 1], drawn by (seed, step) alone.

    A picture's short side is first resized to a random size between the crop's and `zoom` times that (never enlarged beyond
    its own size unless it is smaller than the crop), then cropped and half of the time mirrored. Unreadable files are
    skipped, named once as a warning of this module's logger, and remembered in `skipped` with the reason (in the process
    that met them: a loader's workers keep their own); a new picture is drawn in their place.

    Args:
        files: Image files.
        batch_size: B, pictures per step (of this process).
        crop_px: Side of the crop.
        zoom: Largest short side before cropping, in crops.
        seed: With the step's number, the only source of chance.
        rank: Of this process; each draws a different part of a step.

    Raises:
        DataError: There are no files.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (40, 30), (255, 0, 0)).save(folder / "red.png")
        >>> crops = RandomCrops(find_images(folder), batch_size=2, crop_px=16)
        >>> crops[7].shape, bool((crops[7] == crops[7]).all())
        (torch.Size([2, 3, 16, 16]), True)
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        batch_size: int,
        crop_px: int,
        zoom: float = 1.6,
        seed: int = 0,
        rank: int = 0,
    ):
        if not files:
            raise DataError("expected at least one image file, got none: check the image source")
        self.files = list(files)
        self.batch_size, self.crop_px, self.zoom = batch_size, crop_px, zoom
        self.seed, self.rank = seed, rank
        self.skipped: dict[Path, str] = {}

    def __getitem__(self, step: int) -> Tensor:
        """The batch of that step: (B, 3, crop, crop) float32 in [0, 1].

        Raises:
            DataError: `ATTEMPTS` unreadable files in a row.
        """
        slots = range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        return torch.stack([self._crop(np.random.default_rng((self.seed, step, slot))) for slot in slots])

    def _crop(self, rng: np.random.Generator) -> Tensor:
        path = self.files[0]
        for _ in range(ATTEMPTS):
            path = self.files[rng.integers(len(self.files))]
            try:
                return self._cut(read_image(path), rng)
            except ImageError as error:
                if path not in self.skipped:
                    _LOGGER.warning("image skipped: %s: %s", path, error)
                self.skipped[path] = str(error)
        raise DataError(
            f"expected readable images, got {ATTEMPTS} unreadable ones in a row, the last {path}: {self.skipped[path]}"
        )

    def _cut(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        short = min(image.shape[-2:])
        largest = max(self.crop_px, min(short, round(self.zoom * self.crop_px)))
        wanted = int(rng.integers(self.crop_px, largest + 1))
        if wanted != short:
            height, width = (max(self.crop_px, round(side * wanted / short)) for side in image.shape[-2:])
            if height * width > DEFAULT_MAX_PIXELS:  # a strip of few pixels' height grows without bound
                raise ImageTooLargeError(f"expected sides that can be cropped, got {tuple(image.shape[-2:])}: crop it")
            image = F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)
        top, left = (int(rng.integers(side - self.crop_px + 1)) for side in image.shape[-2:])
        crop = image[:, top : top + self.crop_px, left : left + self.crop_px]
        return crop.flip(2) if rng.random() < 0.5 else crop

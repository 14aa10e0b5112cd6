"""Images -> random crops that depend on the step's number alone, so that a resumed run sees what it would have seen."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from pyramid_tokenizer.errors import ConfigError, DataError, ImageError, ImageTooLargeError, ImageValueError
from pyramid_tokenizer.images.read import DEFAULT_MAX_PIXELS
from pyramid_tokenizer.images.sources import Source, open_images

ATTEMPTS = 100
"""Unusable images in a row after which a step gives up."""

_LOGGER = logging.getLogger(__name__)
# a file's name may hold what separates the log's fields
_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


class RandomCrops(Dataset[Tensor]):
    """Item `i` is a micro-batch: (B, 3, crop, crop) float32 in [0, 1], drawn by the seed and its place in its step alone.

    Item i is micro-batch k of step s, (s, k) = divmod(i, accumulate), and holds slots (k · world_size + rank) · B + 0 … B − 1 of
    that step. So one process with B = 8, two with B = 4, and one with B = 4 and accumulate = 2 see the same crops in a step.

    An image's short side is first resized to a random size between the crop's and `zoom` times that (never enlarged beyond
    its own size unless it is smaller than the crop), then cropped and half of the time mirrored. Images that are unreadable
    or too small are skipped, named once as a warning of this module's logger, and remembered in `skipped` with the reason (in
    the process that met them: a loader's workers keep their own, `skip_log` has all); a new image is drawn in their place.

    Args:
        images: The images; anything else goes through `open_images`.
        batch_size: B, images in an item.
        crop_px: Side of the crop.
        zoom: Largest short side before cropping, in crops.
        min_px: Images with a shorter side are skipped.
        seed: With an item's place, the only source of chance.
        rank: Of this process, below `world_size`.
        world_size: Processes that share a step.
        accumulate: Items of this process in a step.
        skip_log: A file to which each process adds a line for every image that it skips, see `read_skip_log`.

    Raises:
        ConfigError: `rank` is none of `world_size` processes.
        DataError: There are no images.

    Example:
        >>> from PIL import Image
        >>> crops = RandomCrops([Image.new("RGB", (40, 32), (255, 0, 0))], batch_size=2, crop_px=16)
        >>> crops[7].shape, bool((crops[7] == crops[7]).all())
        (torch.Size([2, 3, 16, 16]), True)
    """

    def __init__(  # noqa: PLR0913
        self,
        images: Source,
        *,
        batch_size: int,
        crop_px: int,
        zoom: float = 1.6,
        min_px: int = 32,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        skip_log: Path | None = None,
    ):
        if not 0 <= rank < world_size:
            raise ConfigError(f"expected a rank below world_size {world_size}, got {rank}: pass both")
        self.images = open_images(images)
        self.batch_size, self.crop_px, self.zoom, self.min_px = batch_size, crop_px, zoom, min_px
        self.seed, self.rank, self.world_size, self.accumulate = seed, rank, world_size, accumulate
        self.skip_log = skip_log
        self.skipped: dict[str, str] = {}

    def __getitem__(self, item: int) -> Tensor:
        """That micro-batch: (B, 3, crop, crop) float32 in [0, 1].

        Raises:
            DataError: `ATTEMPTS` unusable images in a row.
        """
        step, part = divmod(item, self.accumulate)
        first = (part * self.world_size + self.rank) * self.batch_size
        slots = range(first, first + self.batch_size)
        return torch.stack([self._crop(np.random.default_rng((self.seed, step, slot))) for slot in slots])

    def _crop(self, rng: np.random.Generator) -> Tensor:
        reason = ""
        for _ in range(ATTEMPTS):
            index = int(rng.integers(len(self.images)))
            try:
                return self._cut(self.images.read(index), rng)
            except ImageError as error:
                reason = self._skip(self.images.name(index), str(error))
        raise DataError(f"expected usable images, got {ATTEMPTS} unusable ones in a row, the last {reason}")

    def _skip(self, name: str, reason: str) -> str:
        line = f"{name.translate(_ESCAPES)}\t{reason.translate(_ESCAPES)}"
        if name not in self.skipped:
            self.skipped[name] = reason
            _LOGGER.warning("image skipped: %s: %s", name, reason)
            if self.skip_log is not None:
                # one write at the file's end: lines of several processes do not mix
                with open(self.skip_log, "a", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                    file.write(line + "\n")
        return f"{name}: {reason}"

    def _cut(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        short = min(image.shape[-2:])
        if short < self.min_px:
            raise ImageValueError(
                f"expected sides of at least {self.min_px} px, got {tuple(image.shape[-2:])}: lower min_px to use it"
            )
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


def read_skip_log(path: Path) -> dict[str, str]:
    """Name -> reason of each image that was skipped, in the order of first sight; none where the file does not exist.

    A line is name, tab, reason; an image that several processes met has several lines.

    Example:
        >>> read_skip_log(Path("no/such/skipped.tsv"))
        {}
    """
    if not path.exists():
        return {}
    reasons: dict[str, str] = {}
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            name, _, reason = line.rstrip("\n").partition("\t")
            reasons.setdefault(name, reason)
    return reasons

"""Random crops of images: one rule of geometry, and batches that depend on a step's number alone.

Because nothing but the seed and the step's number decides what is drawn, a resumed training sees the crops that it would
have seen without the interruption.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
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
"""A batch is given up after this many unusable images in a row."""
ZOOM = 1.6
"""Default of the largest short side before cropping, in multiples of the crop's side."""

_LOGGER = logging.getLogger(__name__)
# a file's name may hold what separates the log's fields
_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """Where a crop lies in an image: the image is resized, a square is cut out, and may be mirrored."""

    crop_px: int
    """Side of the crop, in pixels."""
    size: tuple[int, int]
    """Height and width that the image is resized to, both at least `crop_px`."""
    top: int
    """First row of the crop in the resized image."""
    left: int
    """First column of the crop in the resized image."""
    mirrored: bool
    """Whether left and right are exchanged."""

    def of_image(self, image: Tensor) -> Tensor:
        """The crop (3, crop, crop) of an image (3, H, W) float in [0, 1], resized by a bicubic kernel with antialiasing."""
        if tuple(image.shape[-2:]) != self.size:
            image = F.interpolate(image[None], self.size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        return self._cut(image)

    def of_labels(self, labels: Tensor) -> Tensor:
        """The same crop (crop, crop) of labels (H, W) int64, resized to the nearest value."""
        if tuple(labels.shape) != self.size:
            labels = F.interpolate(labels[None, None].float(), self.size, mode="nearest-exact")[0, 0].long()
        return self._cut(labels)

    def _cut(self, x: Tensor) -> Tensor:
        x = x[..., self.top : self.top + self.crop_px, self.left : self.left + self.crop_px]
        return x.flip(-1) if self.mirrored else x


def draw_crop(image_size: tuple[int, int], *, crop_px: int, zoom: float, rng: np.random.Generator) -> Crop:
    """A random crop, by the one rule that training with and without labels follows.

    The short side is resized to a random whole number of pixels between `crop_px` and `zoom * crop_px`, but an image is
    never enlarged beyond its own size, because enlarged pixels teach nothing, unless it is smaller than the crop. The place
    of the crop is random, and half of the crops are mirrored.

    Args:
        image_size: Height and width of the image in pixels.
        crop_px: Side of the crop in pixels.
        zoom: Largest short side before cropping, in multiples of `crop_px`.
        rng: The source of chance.

    Raises:
        ImageTooLargeError: The image is so narrow that it would have too many pixels once its short side fills the crop.

    Example:
        >>> crop = draw_crop((48, 64), crop_px=32, zoom=9.0, rng=np.random.default_rng(0))
        >>> 32 <= crop.size[0] <= 48, crop.of_image(torch.rand(3, 48, 64)).shape
        (True, torch.Size([3, 32, 32]))
    """
    short = min(image_size)
    largest = max(crop_px, min(short, round(zoom * crop_px)))
    wanted = int(rng.integers(crop_px, largest + 1))
    height, width = (max(crop_px, round(side * wanted / short)) for side in image_size)
    if height * width > DEFAULT_MAX_PIXELS:
        raise ImageTooLargeError(
            f"expected an image of at most {DEFAULT_MAX_PIXELS} pixels once its short side is {wanted} px, got {height} x "
            f"{width} from {tuple(image_size)}: crop it"
        )
    top, left = int(rng.integers(height - crop_px + 1)), int(rng.integers(width - crop_px + 1))
    return Crop(crop_px=crop_px, size=(height, width), top=top, left=left, mirrored=bool(rng.random() < 0.5))


@dataclass(frozen=True, kw_only=True, slots=True)
class CropOrder:
    """Which random numbers each crop of a training is drawn with, however its steps are divided among processes and passes.

    Item i of a process is part k of step s, (s, k) = divmod(i, accumulate), and holds the crops number
    (k * world_size + rank) * batch_size + 0 ... batch_size - 1 of that step. So one process with batches of 8, two with
    batches of 4, and one with batches of 4 and accumulate = 2 see the same crops in a step.

    Raises:
        ConfigError: `rank` is none of `world_size` processes.
    """

    batch_size: int
    """Crops in an item."""
    seed: int = 0
    """With a crop's number and its step, the only source of chance."""
    rank: int = 0
    """Number of this process, below `world_size`."""
    world_size: int = 1
    """Processes that share a step."""
    accumulate: int = 1
    """Items of this process in a step."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"expected a rank below world_size {self.world_size}, got {self.rank}: pass both")

    def generators(self, item: int) -> list[np.random.Generator]:
        """One generator of random numbers for each crop of an item.

        Raises:
            IndexError: The item is negative.
        """
        if item < 0:
            raise IndexError(f"expected an item of 0 or more, got {item}: items are counted from the first step")
        step, part = divmod(item, self.accumulate)
        first = (part * self.world_size + self.rank) * self.batch_size
        return [np.random.default_rng((self.seed, step, first + crop)) for crop in range(self.batch_size)]

    def pass_length(self, num_images: int) -> int:
        """Items of one pass: so many that all processes together draw as many crops as there are images, or just more."""
        return math.ceil(num_images / (self.batch_size * self.world_size))


class RandomCrops(Dataset[Tensor]):
    """Batches of random crops (B, 3, crop, crop) float32 in [0, 1]: item `i` depends on the seed and on `i` alone.

    Every item from 0 on can be asked for, without end. `len` and iteration cover one pass: as many crops as there are
    images, each drawn from a random image, so that some images come twice and others not at all.

    `draw_crop` says how an image is resized and cropped, `CropOrder` how processes share the crops of a step. Images that are
    unreadable or too small are skipped: each is named once as a warning of this module's logger, and kept in `skipped` with
    the reason (in the process that met it: a loader's workers keep their own, `skip_log` has all). Another image is drawn in
    its place.

    Args:
        images: The images; anything that `open_images` takes.
        batch_size: B, crops in an item.
        crop_px: Side of the crop in pixels.
        zoom: Largest short side before cropping, in multiples of `crop_px`.
        min_px: Images with a shorter side are skipped.
        seed: With an item's number, the only source of chance.
        rank: Number of this process, below `world_size`.
        world_size: Processes that share a step.
        accumulate: Items of this process in a step.
        skip_log: A file to which each process adds a line for every image that it skips, see `read_skip_log`.

    Raises:
        ConfigError: `rank` is none of `world_size` processes.
        DataError: There are no images.

    Example:
        >>> from PIL import Image
        >>> crops = RandomCrops([Image.new("RGB", (40, 32), (255, 0, 0))] * 5, batch_size=2, crop_px=16)
        >>> crops[7].shape, bool((crops[7] == crops[7]).all()), len(list(crops))
        (torch.Size([2, 3, 16, 16]), True, 3)
    """

    def __init__(  # noqa: PLR0913
        self,
        images: Source,
        *,
        batch_size: int,
        crop_px: int,
        zoom: float = ZOOM,
        min_px: int = 32,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        skip_log: Path | None = None,
    ):
        self.order = CropOrder(
            batch_size=batch_size, seed=seed, rank=rank, world_size=world_size, accumulate=accumulate
        )
        self.images = open_images(images)
        self.crop_px, self.zoom, self.min_px = crop_px, zoom, min_px
        self.skip_log = skip_log
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return self.order.pass_length(len(self.images))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[item] for item in range(len(self)))

    def __getitem__(self, item: int) -> Tensor:
        """The batch of that number: (B, 3, crop, crop) float32 in [0, 1].

        Raises:
            DataError: `ATTEMPTS` unusable images in a row.
            IndexError: The number is negative.
        """
        return torch.stack([self._crop(rng) for rng in self.order.generators(item)])

    def _crop(self, rng: np.random.Generator) -> Tensor:
        reason = ""
        for _ in range(ATTEMPTS):
            index = int(rng.integers(len(self.images)))
            try:
                image = self.images.read(index)
                size = image.shape[-2], image.shape[-1]
                self._check_size(size)
                return draw_crop(size, crop_px=self.crop_px, zoom=self.zoom, rng=rng).of_image(image)
            except ImageError as error:
                reason = self._skip(self.images.name(index), str(error))
        raise DataError(
            f"expected images that can be used, got {ATTEMPTS} in a row that cannot, the last {reason}: see the reasons in the "
            "log and check the source"
        )

    def _check_size(self, image_size: tuple[int, int]) -> None:
        if min(image_size) < self.min_px:
            raise ImageValueError(
                f"expected sides of at least {self.min_px} px, got {image_size}: leave it out or enlarge it, or give "
                "RandomCrops a smaller min_px"
            )

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


def read_skip_log(path: Path) -> dict[str, str]:
    """Name and reason of each image that was skipped, in the order in which they were met.

    A line of the file is name, tab, reason. An image that several processes met has several lines; the first one counts.

    Args:
        path: The file that `RandomCrops` wrote. Where it does not exist, no image was skipped.

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

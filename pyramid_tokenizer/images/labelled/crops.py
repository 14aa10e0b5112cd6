"""Labelled images -> random crops with their labels, by the step's number alone, from one set or several at once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.images.labelled.class_names import split_name
from pyramid_tokenizer.images.labelled.sets import SegmentationSet
from pyramid_tokenizer.images.read import read_image


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledBatch:
    """Crops of one pass."""

    images: Tensor
    """(B, 3, S, S) float32 in [0, 1]."""
    labels: Tensor
    """(B, S, S) int64: a class of the image's own set, N (one more than its last class) for none of them, -1 ignored."""
    sets: Tensor
    """(B,) int64, the set that each crop is from: an index into `LabelledCrops.names`."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> LabelledBatch:
        """The same on `device`."""
        return LabelledBatch(images=self.images.to(device), labels=self.labels.to(device), sets=self.sets.to(device))


class LabelledCrops(Dataset[LabelledBatch]):
    """Item `i` is a micro-batch drawn by the seed and its place in its step alone, as in `data.RandomCrops`.

    An image's short side is resized to a random size between the crop's and `zoom` times that, then cropped and half of the
    time mirrored; labels are resized to the nearest value.

    Args:
        sets: Labelled sets; each image is as likely as any other, whichever set it is in.
        batch_size: B, images in an item.
        crop_px: S, side of the crop.
        zoom: Largest short side before cropping, in crops.
        seed: With an item's place, the only source of chance.
        rank: Of this process, below `world_size`.
        world_size: Processes that share a step.
        accumulate: Items of this process in a step.
        left_out: Classes that are not learned, by their first word or all synonyms as the set writes them; their pixels are
            ignored.

    Raises:
        ConfigError: A class to leave out that no set has.
        DataError: No images, or no class is left.
    """

    def __init__(  # noqa: PLR0913
        self,
        sets: Sequence[SegmentationSet],
        *,
        batch_size: int,
        crop_px: int,
        zoom: float = 1.6,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        left_out: Collection[str] = (),
    ):
        self.sets = list(sets)
        self.places = [(s, i) for s, labelled in enumerate(self.sets) for i in range(len(labelled))]
        if not self.places:
            raise DataError("expected labelled images, got none: check the folder and the split")
        self.batch_size, self.crop_px, self.zoom = batch_size, crop_px, zoom
        self.seed, self.rank, self.world_size, self.accumulate = seed, rank, world_size, accumulate
        _check_known(left_out, self.sets)
        self.names, self._tables = zip(*(_learned(labelled, left_out) for labelled in self.sets), strict=True)

    def pixel_shares(self) -> list[Tensor]:
        """Per set (N + 1,) float64: the share of each class, none of them last, among its labelled pixels; reads all labels."""
        shares = []
        for labelled, table, names in zip(self.sets, self._tables, self.names, strict=True):
            counts = torch.zeros(len(names) + 2, dtype=torch.float64)  # ignored pixels first
            for sample in labelled:
                counts += torch.bincount(table[sample.labels.flatten() + 1] + 1, minlength=len(counts))
            shares.append(counts[1:] / counts[1:].sum().clamp(min=1))
        return shares

    def __getitem__(self, item: int) -> LabelledBatch:
        """That micro-batch.

        Raises:
            DataError: A label image cannot be read, or is not of its image's size.
            ImageError: An image cannot be read.
        """
        step, part = divmod(item, self.accumulate)
        first = (part * self.world_size + self.rank) * self.batch_size
        crops = [self._crop(np.random.default_rng((self.seed, step, first + slot))) for slot in range(self.batch_size)]
        images, labels, sets = zip(*crops, strict=True)
        return LabelledBatch(images=torch.stack(images), labels=torch.stack(labels), sets=torch.tensor(sets))

    def _crop(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, int]:
        which, index = self.places[int(rng.integers(len(self.places)))]
        sample = self.sets[which][index]
        image = read_image(sample.image)
        labels = self._tables[which][sample.labels + 1]  # the table begins with ignored pixels
        if labels.shape != image.shape[-2:]:
            raise DataError(
                f"expected labels of the image's size {tuple(image.shape[-2:])}, got {tuple(labels.shape)} for "
                f"{sample.name!r}: resize them to the nearest value"
            )
        wanted = int(rng.integers(self.crop_px, round(self.zoom * self.crop_px) + 1))
        scale = wanted / min(image.shape[-2:])
        size = tuple(max(self.crop_px, round(side * scale)) for side in image.shape[-2:])
        image = F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        labels = F.interpolate(labels[None, None].float(), size, mode="nearest-exact")[0, 0].long()
        top, left = (int(rng.integers(side - self.crop_px + 1)) for side in size)
        rows, columns = slice(top, top + self.crop_px), slice(left, left + self.crop_px)
        image, labels = image[:, rows, columns], labels[rows, columns]
        if rng.random() < 0.5:
            image, labels = image.flip(2), labels.flip(1)
        return image, labels, which


def _spellings(name: str) -> set[str]:
    """How a class may be called where one is chosen: "sofa|couch", or "sofa"."""
    return {name, split_name(name)[0]}


def _check_known(left_out: Collection[str], sets: Sequence[SegmentationSet]) -> None:
    known = {spelling for labelled in sets for name in labelled.names for spelling in _spellings(name)}
    unknown = [name for name in left_out if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "write it as the set's class list does"
        raise ConfigError(f"expected classes of the sets to leave out, got {unknown[0]!r}: {hint}")


def _learned(labelled: SegmentationSet, left_out: Collection[str]) -> tuple[tuple[str, ...], Tensor]:
    """Names that are learned, and the table from a set's labels, -1 first, to places among them."""
    background = labelled.protocol.background_class
    kept = [i for i, name in enumerate(labelled.names) if i != background and not _spellings(name) & set(left_out)]
    if not kept:
        raise DataError(f"expected a class to learn in {labelled!r}, got none: leave out fewer")
    table = torch.full((labelled.num_classes + 1,), -1)
    for place, index in enumerate(kept):
        table[index + 1] = place
    if background is not None:
        table[background + 1] = len(kept)
    return tuple(labelled.names[i] for i in kept), table

"""Random crops of images together with their labels, from one labelled set or several at once."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyramid_tokenizer.errors import ConfigError, DataError, did_you_mean
from pyramid_tokenizer.images.crops import ZOOM, CropOrder, draw_crop
from pyramid_tokenizer.images.labelled.class_names import split_name
from pyramid_tokenizer.images.labelled.findings import LARGEST_IGNORED_SHARE, label_findings
from pyramid_tokenizer.images.labelled.labels import IGNORED, size_mismatch
from pyramid_tokenizer.images.labelled.sets import SegmentationSet
from pyramid_tokenizer.images.read import read_image


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledBatch:
    """Crops of images with their labels, a batch of B."""

    images: Tensor
    """(B, 3, S, S) float32 in [0, 1]."""
    labels: Tensor
    """(B, S, S) int64: a class of the image's own set, 0 to N - 1; N for pixels that are none of the classes; -1 for pixels
    that do not count."""
    sets: Tensor
    """(B,) int64: which set each crop is from, an index into `LabelledCrops.names`."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> LabelledBatch:
        """The same batch on `device`."""
        return LabelledBatch(images=self.images.to(device), labels=self.labels.to(device), sets=self.sets.to(device))


class LabelledCrops(Dataset[LabelledBatch]):
    """Batches of random crops with their labels: item `i` depends on the seed and on `i` alone, as in `images.RandomCrops`.

    Image and labels are resized and cropped alike, by `images.crops.draw_crop`; labels are resized to the nearest value.
    Every item from 0 on can be asked for; `len` and iteration cover one pass, as many crops as there are images.

    Args:
        sets: Labelled sets; an image is as likely as any other, whichever set it is in.
        batch_size: B, crops in an item.
        crop_px: S, side of the crop in pixels.
        zoom: Largest short side before cropping, in multiples of `crop_px`.
        seed: With an item's number, the only source of chance.
        rank: Number of this process, below `world_size`.
        world_size: Processes that share a step.
        accumulate: Items of this process in a step.
        left_out: Classes that are not learned, each named by its first word or by all synonyms as the set writes them; their
            pixels do not count.

    Raises:
        ConfigError: No set has a class that is to be left out, or `rank` is none of `world_size` processes.
        DataError: There are no images, or no class is left.
    """

    def __init__(  # noqa: PLR0913
        self,
        sets: Sequence[SegmentationSet],
        *,
        batch_size: int,
        crop_px: int,
        zoom: float = ZOOM,
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
        self.order = CropOrder(
            batch_size=batch_size, seed=seed, rank=rank, world_size=world_size, accumulate=accumulate
        )
        self.crop_px, self.zoom = crop_px, zoom
        _check_known(left_out, self.sets)
        self.names, self._tables = zip(*(_learned(labelled, left_out) for labelled in self.sets), strict=True)

    def pixel_shares(self) -> list[Tensor]:
        """How frequent each class is among the labelled pixels of each set, (N + 1,) float64 per set with a sum of 1.

        The last number is the share of pixels that are none of the classes. All label files are read, once.
        """
        shares = []
        for counts, table, names in zip(self._label_counts, self._tables, self.names, strict=True):
            learned = torch.zeros(len(names) + 2, dtype=torch.float64)  # ignored pixels first
            learned.index_add_(0, table + 1, counts.double())
            shares.append(learned[1:] / learned[1:].sum().clamp(min=1))
        return shares

    def check_labels(self) -> tuple[str, ...]:
        """Sentences about labels that cannot mean what the class lists say, as `label_findings` words them.

        All label files are read, once.

        Raises:
            DataError: In some set there is nothing to learn: no pixel of a class that is learned, or a single class without a
                pixel of another one or of none.
        """
        found: list[str] = []
        for labelled, counts, names, shares in zip(
            self.sets, self._label_counts, self.names, self.pixel_shares(), strict=True
        ):
            by_design = labelled.protocol.background == "ignored"
            limit = 1.0 if by_design else LARGEST_IGNORED_SHARE
            findings = label_findings(counts[1:], int(counts[0]), names=labelled.names, largest_ignored_share=limit)
            present = [name for name, share in zip((*names, "none of them"), shares.tolist(), strict=True) if share]
            if len(present) < 2 or not shares[:-1].any():
                reason = findings[0] if findings else "leave fewer classes out"
                got = f"pixels of {present[0]!r} alone" if present else "no pixel of any class"
                raise DataError(f"expected a class to learn and other pixels in {labelled!r}, got {got}: {reason}")
            found += findings
        return tuple(found)

    @functools.cached_property
    def _label_counts(self) -> list[Tensor]:
        """The number of ignored pixels and of pixels of each class of each set, (1 + N_set,) int64."""
        return [_count_labels(labelled) for labelled in self.sets]

    def __len__(self) -> int:
        return self.order.pass_length(len(self.places))

    def __iter__(self) -> Iterator[LabelledBatch]:
        return (self[item] for item in range(len(self)))

    def __getitem__(self, item: int) -> LabelledBatch:
        """The batch of that number.

        Raises:
            DataError: A label image cannot be read, or is not of its image's size.
            ImageError: An image cannot be read.
            IndexError: The number is negative.
        """
        images, labels, sets = zip(*(self._crop(rng) for rng in self.order.generators(item)), strict=True)
        return LabelledBatch(images=torch.stack(images), labels=torch.stack(labels), sets=torch.tensor(sets))

    def _crop(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, int]:
        which, index = self.places[int(rng.integers(len(self.places)))]
        sample = self.sets[which][index]
        image = read_image(sample.image)
        labels = self._tables[which][sample.labels + 1]  # the table begins with ignored pixels
        size = image.shape[-2], image.shape[-1]
        if labels.shape != size:
            raise DataError(size_mismatch(size, tuple(labels.shape), sample.name))
        crop = draw_crop(size, crop_px=self.crop_px, zoom=self.zoom, rng=rng)
        return crop.of_image(image), crop.of_labels(labels), which


def _count_labels(labelled: SegmentationSet) -> Tensor:
    counts = torch.zeros(labelled.num_classes + 1, dtype=torch.int64)  # ignored pixels first
    for sample in labelled:
        counts += torch.bincount(sample.labels.flatten() + 1, minlength=len(counts))
    return counts


def _spellings(name: str) -> set[str]:
    """What a class may be called in `left_out`: all its synonyms, "sofa|couch", or the first one, "sofa"."""
    return {name, split_name(name)[0]}


def _check_known(left_out: Collection[str], sets: Sequence[SegmentationSet]) -> None:
    known = {spelling for labelled in sets for name in labelled.names for spelling in _spellings(name)}
    unknown = [name for name in left_out if name not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known, otherwise="write it as the set's class list does")
        raise ConfigError(f"expected classes of the sets to leave out, got {unknown[0]!r}: {hint}")


def _learned(labelled: SegmentationSet, left_out: Collection[str]) -> tuple[tuple[str, ...], Tensor]:
    """Names that are learned, and a table (N + 1,) from a set's labels, `IGNORED` first, to their positions among these names."""
    background = labelled.protocol.background_class
    kept = [i for i, name in enumerate(labelled.names) if i != background and not _spellings(name) & set(left_out)]
    if not kept:
        raise DataError(f"expected a class to learn in {labelled!r}, got none: leave out fewer")
    table = torch.full((labelled.num_classes + 1,), IGNORED)
    for place, index in enumerate(kept):
        table[index + 1] = place
    if background is not None:
        table[background + 1] = len(kept)
    return tuple(labelled.names[i] for i in kept), table

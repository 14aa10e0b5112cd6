"""`TokenSequences`: the images of a dataset as integers, packed into pieces of one length for a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pyramid_tokenizer.checks.arguments import check_whole, shown
from pyramid_tokenizer.datasets.sampler import RowSampler
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.tokens.interleaving import interleave
from pyramid_tokenizer.tokens.sequence_writer import flatten_each, lengths_of

if TYPE_CHECKING:
    from pyramid_tokenizer.datasets.reader import TokenDataset

SequenceOrder = Literal["levels", "interleaved"]
"""Level by level (`Vocabulary.flatten`), or each cell followed by the finer cells below it (`tokens.interleaving`)."""
NO_DOCUMENT = -1
"""Stands in `documents` for the padding behind the last image."""
_KEPT_GROUPS = 16


class PackedSequence(NamedTuple):
    """A piece of the dataset's images, one after the other; `default_collate` joins several to (B, length)."""

    ids: Tensor
    """(length,) int64 in [0, vocabulary.size)."""
    documents: Tensor
    """(length,) int64: the number in the dataset of the image to which each integer belongs; -1 for padding, which only the
    last piece has, as the mark of the end. Attention across unequal numbers can be masked."""
    positions: Tensor
    """(length,) int64: the place of each integer in the sequence of its image, also where that began in an earlier piece."""


class TokenSequences(Dataset[PackedSequence]):
    """The images of a dataset as integers of its vocabulary, one after the other, cut into pieces of one length.

    Every image begins with the mark of the begin and ends with that of the end. An image may be cut where a piece ends and go on
    in the next one; where all images have one size and `length` is that of their sequence, every piece is one image. To
    train in random order, give a `DataLoader` the `sampler` of the pieces.

    Args:
        dataset: The dataset.
        length: Integers of a piece.
        levels: The coarsest levels alone, this many of them. None: those that the dataset reads.
        order: "levels": all ids of level 0, then those of level 1, and so on. "interleaved": each id is followed by those of the
            finer cells below it.

    Raises:
        ConfigError: A length below 1, levels that there are not, or another order.
    """

    def __init__(
        self, dataset: TokenDataset, length: int, *, levels: int | None = None, order: SequenceOrder = "levels"
    ):
        check_whole(length=length)
        check_order(order)
        self.dataset, self.length = dataset, length
        self.order: SequenceOrder = order
        self.levels = checked_levels(levels, dataset.levels)
        self._ends: dict[int, NDArray[np.int64]] = {}
        totals = [int(self._lengths(number).sum()) for number in range(dataset.num_groups)]
        self._group_ends = np.cumsum(totals, dtype=np.int64)

    def __len__(self) -> int:
        return (self.num_integers + self.length - 1) // self.length

    @property
    def num_integers(self) -> int:
        """Integers of all images, without padding."""
        return int(self._group_ends[-1])

    def __getitem__(self, index: int) -> PackedSequence:
        """One piece; negative numbers count from the end.

        Raises:
            IndexError: There is no such piece.
        """
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"expected a sequence in [0, {len(self)}), got {index}")
        start = number * self.length
        stop = min(start + self.length, self.num_integers)
        first, offset = self._row_at(start)
        last, _ = self._row_at(stop - 1)
        rows = flatten_rows(self.dataset, first, last + 1, levels=self.levels, order=self.order)
        padding = self.length - (stop - start)
        ids = torch.cat(rows)[offset : offset + stop - start]
        documents = torch.cat([torch.full_like(row, first + place) for place, row in enumerate(rows)])
        positions = torch.cat([torch.arange(len(row)) for row in rows])
        return PackedSequence(
            ids=_padded(ids, padding, self.dataset.vocabulary.end),
            documents=_padded(documents[offset : offset + stop - start], padding, NO_DOCUMENT),
            positions=_padded(positions[offset : offset + stop - start], padding, 0),
        )

    def sampler(
        self, rank: int = 0, world: int = 1, *, seed: int = 0, shuffle: bool = True, drop_tail: bool = False
    ) -> RowSampler:
        """The pieces of one rank; `RowSampler` explains arguments and errors."""
        what = f"{self.dataset.checksum} {self.length} {self.levels} {self.order}"
        return RowSampler(len(self), rank, world, seed=seed, shuffle=shuffle, drop_tail=drop_tail, dataset=what)

    def _row_at(self, place: int) -> tuple[int, int]:
        """The row that has the integer at a place of all, and the place in its sequence."""
        number = int(np.searchsorted(self._group_ends, place, side="right"))
        inside = place - (int(self._group_ends[number - 1]) if number else 0)
        ends = self._ends_of(number)
        row = int(np.searchsorted(ends, inside, side="right"))
        return self.dataset.group_rows(number)[0] + row, inside - (int(ends[row - 1]) if row else 0)

    def _ends_of(self, number: int) -> NDArray[np.int64]:
        """Where the sequence of each row of a group ends, counted from the first; of the last groups it is kept."""
        if number not in self._ends:
            self._ends[number] = np.cumsum(self._lengths(number))
            if len(self._ends) > _KEPT_GROUPS:
                del self._ends[next(iter(self._ends))]
        return self._ends[number]

    def _lengths(self, number: int) -> NDArray[np.int64]:
        """The lengths of the sequences of a group's rows."""
        ds = self.dataset
        heights = -(-ds.group_heights(number).astype(np.int64) // ds.plan.strides[0])
        counts = torch.from_numpy(ds.group_counts(number)[: self.levels])
        lengths = lengths_of(ds.vocabulary, counts, torch.from_numpy(heights))
        return lengths.numpy() - (self.levels - 1 if self.order == "interleaved" else 0)


def flatten_rows(ds: TokenDataset, first: int, stop: int, *, levels: int, order: SequenceOrder) -> list[Tensor]:
    """The sequences of rows `first` to `stop` - 1 of a dataset, (N,) int64 each.

    Args:
        ds: The dataset.
        first: The first row.
        stop: The row behind the last one.
        levels: How many levels they have.
        order: In which order their ids come.
    """
    vocabulary, found = ds.vocabulary, {}
    for part in ds.__getitems__(range(first, stop)).by_size():
        tokens = part.tokens[:levels]
        rows = flatten_each(vocabulary, tokens) if order == "levels" else interleave(vocabulary, tokens)
        found |= dict(zip(part.rows.tolist(), rows, strict=True))
    return [found[row] for row in range(first, stop)]


def check_order(order: object) -> None:
    """Raises ConfigError for anything but a `SequenceOrder`."""
    if order not in ("levels", "interleaved"):
        raise ConfigError(f'expected order "levels" or "interleaved", got {shown(order)}: name one of the two')


def checked_levels(levels: int | None, most: int) -> int:
    """The number of levels to read, `most` for None.

    Raises:
        ConfigError: It is below 1 or above `most`.
    """
    if levels is None:
        return most
    check_whole(levels=levels)
    if levels > most:
        raise ConfigError(f"expected 1 to {most} levels, got {levels}: the dataset has no more")
    return levels


def _padded(values: Tensor, count: int, value: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, count), value=value)

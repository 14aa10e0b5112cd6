"""`RowSampler`: which rows a rank reads in which order, and where it goes on after an interruption."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from pyramid_tokenizer.checks.arguments import check_whole
from pyramid_tokenizer.datasets.permutation import Permutation
from pyramid_tokenizer.errors import ConfigError, DatasetError

_BLOCK = 4096
"""Rows whose order is computed at once."""


class SamplerState(TypedDict):
    """Where a sampler is; JSON-ready, and the same on all ranks that are equally far."""

    seed: int
    epoch: int
    position: int
    """All positions of the epoch's order below this one were used."""
    dataset: str
    """What the order is an order of."""


class RowSampler(Sampler[int]):
    """The rows of one rank, in an order that is a pure function of (seed, epoch) for all ranks together.

    Of the epoch's order of all rows, a rank takes the positions that are equal to `rank` modulo `world`. The state is (seed,
    epoch, position), and `advance` alone moves the position: what the workers of a `DataLoader` have read ahead does not count.
    A run may go on with other numbers of ranks, workers and rows per batch; no row comes twice and none is lost. Going on takes
    the same time everywhere in an epoch, because positions are computed and not counted off.

        for epoch in range(sampler.epoch, epochs):
            sampler.set_epoch(epoch)
            for batch in loader:                            # DataLoader(ds, batch_size=8, sampler=sampler)
                ...                                         # train
                sampler.advance(batch.rows)
                ...                                         # save sampler.state_dict() with the weights

    Example:
        >>> sampler = RowSampler(10, rank=0, world=2, seed=1)
        >>> rows = list(sampler)
        >>> sampler.advance(rows[:2])
        >>> sampler.state_dict()["position"], list(sampler) == rows[2:]
        (4, True)
    """

    def __init__(
        self,
        length: int,
        rank: int = 0,
        world: int = 1,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_tail: bool = False,
        dataset: str = "",
    ):
        """Starts at the begin of epoch 0.

        Args:
            length: Number of rows of the dataset.
            rank: The number of this process, in [0, world).
            world: The number of processes that train together.
            seed: Chooses the order, together with the epoch.
            shuffle: False keeps the order of the dataset.
            drop_tail: Leave out the last rows of an epoch, fewer than `world`, so that all ranks have equally many. Without it
                the shares of ranks may differ by one row.
            dataset: Names what is read; `load_state_dict` refuses the state of anything else.

        Raises:
            ConfigError: A number is negative or no whole number, or `rank` is not below `world`.
        """
        check_whole(0, length=length, rank=rank, seed=seed)
        check_whole(world=world)
        if rank >= world:
            raise ConfigError(f"expected a rank below the world size {world}, got {rank}: ranks are numbered from 0")
        self.rank, self.world, self.seed, self.epoch, self.position = rank, world, seed, 0, 0
        self._length, self._shuffle, self._drop_tail, self._dataset = length, shuffle, drop_tail, dataset
        self._order: tuple[tuple[int, int], Permutation] | None = None
        self._passed: tuple[int, int] | None = None

    def __len__(self) -> int:
        """How many rows this rank has left in the epoch."""
        left = self._length - self.position
        if self._drop_tail:
            return left // self.world
        return max(0, -(-(self._length - self._first(self.position)) // self.world))

    def __iter__(self) -> Iterator[int]:
        start, count = self.position, len(self)
        if count and self._passed == (self.epoch, start):
            warnings.warn(
                f"the rows of epoch {self.epoch} from position {start} on are read again: call advance(rows) for what was used, "
                "and set_epoch(epoch) before each epoch",
                stacklevel=2,
            )
        for begin in range(0, count, _BLOCK):
            yield from self._rows(start, begin, min(begin + _BLOCK, count)).tolist()
        self._passed = self.epoch, start

    def advance(self, rows: int | Sequence[int] | Tensor) -> None:
        """Says that this rank has used its next rows.

        Args:
            rows: How many they were; or their numbers in order, such as `batch.rows`, which are compared with the sampler's.

        Raises:
            DatasetError: They are more than there are left, or others than the next ones.
        """
        if isinstance(rows, int):
            check_whole(0, rows=rows)
        count, left = rows if isinstance(rows, int) else len(rows), len(self)
        if count > left:
            raise DatasetError(
                f"expected at most {left} rows, which rank {self.rank} has left in epoch {self.epoch}, got {count}: advance once "
                "for each batch, and call set_epoch before each epoch"
            )
        if not isinstance(rows, int):
            own = self._rows(self.position, 0, count)
            wrong = np.flatnonzero(own != np.asarray(rows))
            if len(wrong):
                place = int(wrong[0])
                raise DatasetError(
                    f"expected row {own[place]} as number {place} of the next rows of rank {self.rank}, got {int(rows[place])}: "
                    "advance by the rows of each batch, in the order in which the loader gives the batches"
                )
        self.position = self._length if count == left else self.position + count * self.world

    def set_epoch(self, epoch: int) -> None:
        """Starts an epoch, unless it is the present one, which goes on where it is.

        Args:
            epoch: Its number, 0 or more.
        """
        check_whole(0, epoch=epoch)
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> SamplerState:
        """Where the sampler is: to be saved after the rows were used, together with what they changed."""
        return SamplerState(seed=self.seed, epoch=self.epoch, position=self.position, dataset=self._dataset)

    def load_state_dict(self, state: SamplerState | Sequence[SamplerState]) -> None:
        """Goes on where a sampler was, of any rank and number of ranks.

        Args:
            state: What `state_dict` gave on one rank, or on all of them. One is enough where ranks are equally far, which they
                are after each batch; only at the very end of an epoch some may have one more row (see `drop_tail`), and then the
                states of all ranks tell whether it was used.

        Raises:
            DatasetError: A state is of another dataset, or is none; or the states have different seeds or epochs.
        """
        states = [state] if isinstance(state, dict) else list(state)
        try:
            found = [(int(s["seed"]), int(s["epoch"]), int(s["position"]), s["dataset"]) for s in states]
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"expected what state_dict gave, got {error!r}: pass one state, or a list") from error
        if not found or len({(seed, epoch, dataset) for seed, epoch, _, dataset in found}) > 1:
            raise DatasetError(f"expected states of one seed, epoch and dataset, got {found}: pass those of one moment")
        seed, epoch, position, dataset = min(found, key=lambda one: one[2])
        if dataset != self._dataset or not 0 <= position <= self._length:
            raise DatasetError(
                f"expected a state of dataset {self._dataset[:12]!r} with {self._length:,} rows, got position {position:,} of "
                f"{str(dataset)[:12]!r}: load the state that was saved with this dataset"
            )
        self.seed, self.epoch, self.position, self._passed = seed, epoch, position, None

    def _first(self, position: int) -> int:
        """The first position of this rank from `position` on."""
        return position + (self.rank - position) % self.world

    def _rows(self, start: int, begin: int, end: int) -> NDArray[np.int64]:
        """Rows number `begin` to `end` of this rank, counted from position `start` on."""
        first = self._first(start)
        places = np.arange(first + begin * self.world, first + end * self.world, self.world, dtype=np.int64)
        if not self._shuffle:
            return places
        key = self.seed, self.epoch
        if self._order is None or self._order[0] != key:
            self._order = key, Permutation(self._length, seed=self.seed, epoch=self.epoch)
        return self._order[1](places)

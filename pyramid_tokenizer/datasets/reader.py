"""`TokenDataset`: reads what `tokenize` wrote, by row, by batch, by rank, and as sequences."""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pyramid_tokenizer.checks.arguments import check_path
from pyramid_tokenizer.datasets.arrow_copy import (
    COPY_NAME,
    FORMAT,
    ArrowCopy,
    Group,
    check_bytes,
    group_shards,
    make_copy,
    read_groups,
    user_folder,
)
from pyramid_tokenizer.datasets.gathering import Stretch, gather_full, gather_image, gather_sparse
from pyramid_tokenizer.datasets.manifest import ERRORS_NAME, MANIFEST_NAME, checksum, parse_manifest, parse_plan
from pyramid_tokenizer.datasets.rows import Rows, TokenBatch, TokenRow
from pyramid_tokenizer.datasets.sampler import RowSampler
from pyramid_tokenizer.datasets.schema import OWN_COLUMNS, token_columns
from pyramid_tokenizer.datasets.search import Match, search
from pyramid_tokenizer.datasets.sequences import SequenceOrder, TokenSequences, checked_levels
from pyramid_tokenizer.datasets.storage import open_storage
from pyramid_tokenizer.errors import DatasetError
from pyramid_tokenizer.images.read import ImageLike
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens import TokenPyramid, Vocabulary
from pyramid_tokenizer.tokens.geometry import grids_of
from pyramid_tokenizer.tokens.trusted import trusted_pyramid


class TokenDataset(Dataset[TokenRow]):
    """The rows of a token dataset, by number: `ds[3].tokens`, `ds[3].key`, `ds[3].columns["caption"]`.

    Rows come from an uncompressed copy in the Arrow format that is mapped into memory: it is made at the first use, which also
    checks every shard, and found again by the checksum of the manifest. A plain `DataLoader` reads it under each start method
    of processes; `default_collate` makes a `TokenBatch` of rows of one size, `collate_fn=collate_by_size` one per size.

    Args:
        path: The dataset's folder, or an address of fsspec such as "s3://bucket/tokens" or "hf://datasets/user/name".
        levels: Read the coarsest levels alone, this many of them. None reads all.
        cache_dir: The folder for the copy, and for embeddings that `search` keeps. None: pyramid-tokenizer/datasets in the
            user's cache folder ($XDG_CACHE_HOME, or ~/.cache).

    Raises:
        DatasetError: There is no complete dataset, it has no row, it is of a newer version, a shard is damaged, or the copy
            cannot be written.
        ConfigError: There are not that many levels.

    Example:
        >>> import tempfile
        >>> from pyramid_tokenizer.datasets import tokenize
        >>> folder = tempfile.mkdtemp()
        >>> _ = tokenize(torch.rand(3, 3, 64, 64), folder, workers=0)
        >>> ds = TokenDataset(folder, levels=2, cache_dir=tempfile.mkdtemp())
        >>> len(ds), ds[2].tokens.grids, ds[2].row
        (3, ((2, 2), (4, 4)), 2)
        >>> torch.utils.data.default_collate(ds.__getitems__([2, 0])).tokens.batch_size
        2
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        levels: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ):
        self._storage = open_storage(path)
        if MANIFEST_NAME not in self._storage.sizes():
            raise DatasetError(
                f"expected a complete token dataset with its {MANIFEST_NAME} in {self._storage.address!r}, got none: repeat the "
                "call of tokenize that began it, or correct the address"
            )
        manifest, where = self._storage.read(MANIFEST_NAME), f"{self._storage.address}/{MANIFEST_NAME}"
        self.plan = parse_plan(manifest, where)
        """What made the dataset: fingerprint, precision, codebook sizes, strides, image recipe."""
        self._records = parse_manifest(manifest, self._storage.read(ERRORS_NAME), where)
        self.levels = checked_levels(levels, len(self.plan.strides))
        """How many levels are read."""
        self.checksum = checksum(manifest)
        """SHA-256 of the manifest, and with it of all shards."""
        if cache_dir is not None:
            check_path(cache_dir, name="cache_dir")
        folder = user_folder() if cache_dir is None else Path(cache_dir).expanduser()
        self.cache_folder = folder / checksum(f"{FORMAT} {self.checksum}".encode())[:32]
        """The folder of this dataset's copy and embeddings; it may be deleted."""
        groups = group_shards(self.plan, self._records)
        if not groups:
            raise DatasetError(
                f"expected rows in {where!r}, got none in its {len(self._records)} shards: {ERRORS_NAME} says why images were "
                "left out"
            )
        self._ends = np.cumsum(
            [sum(self._records[shard].rows for shard in shards) for shards in groups], dtype=np.int64
        )
        self._copy = ArrowCopy(self.cache_folder / COPY_NAME)
        make_copy(self._storage, self.plan, self._records, self._copy.path)
        known = {*OWN_COLUMNS, *itertools.chain(*token_columns(self.plan))}
        self.columns = tuple(name for name in self._copy.group(0).batch.schema.names if name not in known)
        """Names of the dataset's own columns."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The integers of the dataset's tokens in a sequence, also where `levels` reads fewer of them."""
        return Vocabulary(
            codebook_sizes=self.plan.codebook_sizes,
            strides=self.plan.strides,
            fingerprint=self.plan.fingerprint,
            image_codebook_sizes=self.plan.image_codebook_sizes,
        )

    @property
    def num_groups(self) -> int:
        """Number of groups of rows in the copy."""
        return len(self._ends)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> TokenRow:
        """One row; negative numbers count from the end."""
        number = operator.index(index)
        return self.__getitems__([number + len(self) if number < 0 else number])[0]

    def __getitems__(self, indices: Sequence[int]) -> Rows:
        """Rows of any numbers, in their order; a `DataLoader` calls it with the numbers of a batch.

        Args:
            indices: Numbers in [0, len(ds)).

        Raises:
            IndexError: A number is outside of this range.
        """
        numbers = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            wrong = numbers[(numbers < 0) | (numbers >= len(self))][0]
            raise IndexError(f"expected rows in [0, {len(self)}), got {wrong}")
        return self._read(numbers)

    def group_rows(self, number: int) -> tuple[int, int]:
        """The first row of a group of the copy, and the first one behind it.

        Args:
            number: The group's number in [0, num_groups).
        """
        return int(self._ends[number - 1]) if number else 0, int(self._ends[number])

    def group_counts(self, number: int) -> NDArray[np.int64]:
        """(levels, rows) int64: how many ids of each level that is read the images of a group have.

        Args:
            number: The group's number in [0, num_groups).
        """
        return np.stack([np.diff(starts).astype(np.int64) for starts in self._copy.group(number).starts[: self.levels]])

    def group_heights(self, number: int) -> NDArray[np.int32]:
        """(rows,) int32: the heights of a group's images, in pixels.

        Args:
            number: The group's number in [0, num_groups).
        """
        return self._copy.group(number).heights

    def sampler(
        self, rank: int = 0, world: int = 1, *, seed: int = 0, shuffle: bool = True, drop_tail: bool = False
    ) -> RowSampler:
        """The rows of one rank, in an order that is a pure function of (seed, epoch), with a state that cannot lie.

        Arguments and errors as for `RowSampler`.
        """
        return RowSampler(
            len(self), rank, world, seed=seed, shuffle=shuffle, drop_tail=drop_tail, dataset=self.checksum
        )

    def search(
        self,
        query: str | TokenPyramid | ImageLike,
        *,
        top: int = 20,
        model: str | Path | PyramidTokenizer = "tiny",
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Match]:
        """The rows that suit words or an example image best, from tokens alone; `datasets.search` explains it."""
        return search(self, query, top=top, model=model, progress=progress)

    def sequences(self, length: int, *, levels: int | None = None, order: SequenceOrder = "levels") -> TokenSequences:
        """The images as integers of `vocabulary`, one after the other, in pieces of a fixed length for a language model.

        Arguments and errors as for `TokenSequences`.
        """
        return TokenSequences(self, length, levels=levels, order=order)

    def verify(self) -> None:
        """Compares every shard with its checksum in the manifest, and every row of the copy with the shards.

        Raises:
            DatasetError: Shards are missing or damaged, and the message names them all; or the copy is, and can be deleted.
        """
        faults = []
        for record in self._records.values():
            name = self.plan.shard_name(record.shard)
            try:
                check_bytes(self._storage.read(name), record, name, self._storage.address)
            except DatasetError as error:
                faults.append(str(error))
        if faults:
            raise DatasetError("\n".join(faults))
        for number, batch in enumerate(read_groups(self._storage, self.plan, self._records)):
            if not batch.equals(self._copy.group(number).batch):
                first, end = self.group_rows(number)
                raise DatasetError(
                    f"expected the rows of the dataset in {str(self._copy.path)!r}, got others from row {first} to {end - 1}: "
                    "delete this copy, and open the dataset again, which makes it anew"
                )

    def _read(self, numbers: NDArray[np.int64]) -> Rows:
        groups = np.searchsorted(self._ends, numbers, side="right")
        sizes = np.empty((len(numbers), 2), dtype=np.int64)
        local = np.empty_like(numbers)
        for number in np.unique(groups):
            chosen = groups == number
            local[chosen] = numbers[chosen] - self.group_rows(number)[0]
            group = self._copy.group(int(number))
            sizes[chosen, 0], sizes[chosen, 1] = group.heights[local[chosen]], group.widths[local[chosen]]
        parts, places = [], np.empty((len(numbers), 2), dtype=np.int64)
        for part, (image_size, chosen) in enumerate(_by_size(sizes)):
            places[chosen, 0], places[chosen, 1] = part, np.arange(len(chosen))
            parts.append(self._batch(image_size, numbers[chosen], groups[chosen], local[chosen]))
        return Rows(parts, [(part, place) for part, place in places.tolist()])

    def _batch(
        self,
        image_size: tuple[int, int],
        numbers: NDArray[np.int64],
        groups: NDArray[np.int64],
        local: NDArray[np.int64],
    ) -> TokenBatch:
        """Rows of images of one size."""
        keys: list[str] = []
        columns: dict[str, list[Any]] = {name: [] for name in self.columns}
        stretches = []
        for begin, end in _runs(numbers, groups):
            group, first = self._copy.group(int(groups[begin])), int(local[begin])
            stretches.append(Stretch(group, first, end - begin))
            keys += _values(group, "key", first, end - begin)
            for name in columns:
                columns[name] += _values(group, name, first, end - begin)
        grids = grids_of(image_size, self.plan.strides[: self.levels])
        gather = gather_sparse if self.plan.is_sparse else gather_full
        ids = [torch.from_numpy(level) for level in gather(stretches, grids)]
        masks = [bool(level.min() < 0) if self.plan.is_sparse else False for level in ids]
        tokens = trusted_pyramid(  # `arrow_copy` has checked every id
            ids=ids,
            present=tuple(level >= 0 if mask else None for level, mask in zip(ids, masks, strict=True)),
            codebook_sizes=self.plan.codebook_sizes[: self.levels],
            image_size=image_size,
            fingerprint=self.plan.fingerprint,
            precision=self.plan.precision,  # type: ignore[arg-type]
            image_ids=torch.from_numpy(gather_image(stretches)),
            image_codebook_sizes=self.plan.image_codebook_sizes,
        )
        return TokenBatch(tokens, tuple(keys), torch.from_numpy(numbers), columns)


def _by_size(sizes: NDArray[np.int64]) -> list[tuple[tuple[int, int], NDArray[np.int64]]]:
    """Each size (H, W) of the rows of (n, 2), and the places of its rows."""
    if not len(sizes):
        return []
    if (sizes == sizes[0]).all():
        return [((int(sizes[0, 0]), int(sizes[0, 1])), np.arange(len(sizes)))]
    unique, kinds = np.unique(sizes, axis=0, return_inverse=True)
    return [((int(h), int(w)), np.flatnonzero(kinds.reshape(-1) == kind)) for kind, (h, w) in enumerate(unique)]


def _runs(numbers: NDArray[np.int64], groups: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Begin and end of each stretch of rows that follow each other in one group."""
    breaks = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(groups) != 0)) + 1
    bounds = [0, *breaks.tolist(), len(numbers)]
    return list(itertools.pairwise(bounds))


def _values(group: Group, name: str, first: int, count: int) -> list[Any]:
    column = group.batch.column(name)
    return [column[first].as_py()] if count == 1 else column.slice(first, count).to_pylist()

"""What is read of a token dataset: `TokenRow`, one image; `TokenBatch`, images of one size; `Rows`, any that were asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from pyramid_tokenizer.errors import TokenError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One image of a token dataset."""

    tokens: TokenPyramid
    """Its tokens, a batch of one."""
    key: str
    """Its stable name."""
    row: int
    """Its number in the dataset."""
    columns: Mapping[str, Any]
    """The dataset's own columns: name -> value."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """B images of one size: what a `DataLoader` makes of rows."""

    tokens: TokenPyramid
    """Their tokens."""
    keys: tuple[str, ...]
    """Their stable names."""
    rows: Tensor
    """(B,) int64, their numbers in the dataset, which `RowSampler.advance` takes."""
    columns: Mapping[str, list[Any]]
    """The dataset's own columns: name -> B values."""

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, index: int) -> TokenRow:
        """The image at a place of the batch; its tokens share the memory of the batch."""
        own = {name: values[index] for name, values in self.columns.items()}
        return TokenRow(self.tokens.image(index), self.keys[index], int(self.rows[index]), own)

    def pin_memory(self) -> TokenBatch:
        """The same batch in page-locked memory; a `DataLoader(pin_memory=True)` calls it."""
        return dataclasses.replace(self, tokens=self.tokens.pin_memory(), rows=self.rows.pin_memory())


class Rows(Sequence[TokenRow]):
    """Rows that were read at once, in the order in which they were asked for.

    It is a list of `TokenRow` whose elements are made when they are looked at. `default_collate` makes a `TokenBatch` of it
    without looking at each: rows of one size are one tensor per level from the start.

    Args:
        parts: The rows of each image size.
        places: For each row the number of its part, and its place there.
    """

    def __init__(self, parts: Sequence[TokenBatch], places: Sequence[tuple[int, int]]):
        self._parts, self._places = tuple(parts), places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> TokenRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[TokenRow]: ...

    def __getitem__(self, index: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, place = self._places[index]
        return self._parts[part].row(place)

    def __iter__(self) -> Iterator[TokenRow]:
        return (self._parts[part].row(place) for part, place in self._places)

    def by_size(self) -> tuple[TokenBatch, ...]:
        """The rows of each image size as a batch of its own, each in the order in which they were asked for."""
        return self._parts

    def batch(self) -> TokenBatch:
        """All rows as one batch.

        Raises:
            TokenError: Their images differ in size.
        """
        if len(self._parts) != 1:
            sizes = [part.tokens.image_size for part in self._parts]
            raise TokenError(
                f"expected rows of one image size to join, got {len(sizes)} sizes such as {sizes[:3]}: give the DataLoader "
                "collate_fn=collate_by_size for a batch per size, or collate_fn=list for single rows"
            )
        return self._parts[0]


def _collate(rows: Sequence[TokenRow], *, collate_fn_map: object = None) -> TokenBatch:
    if isinstance(rows, Rows):
        return rows.batch()
    return TokenBatch(
        tokens=TokenPyramid.cat([row.tokens for row in rows]),
        keys=tuple(row.key for row in rows),
        rows=torch.tensor([row.row for row in rows]),
        columns={name: [row.columns[name] for row in rows] for name in rows[0].columns},
    )


# How torch documents that a type of one's own is taught to `torch.utils.data.default_collate`.
default_collate_fn_map[TokenRow] = _collate

"""Ids of many rows -> one array per level: of full pyramids by copying, of sparse ones by following their splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyramid_tokenizer.datasets.arrow_copy import Group
from pyramid_tokenizer.tokens.split_bits import ABSENT, presence_of_bits


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of a group that follow each other."""

    group: Group
    first: int
    """The number of the first one in the group."""
    count: int


def gather_full(stretches: Sequence[Stretch], grids: Sequence[tuple[int, int]]) -> list[NDArray[np.int64]]:
    """(n, h_l, w_l) int64 per level: the ids of n rows of one image size, of which every cell is present.

    Args:
        stretches: The rows, in their order.
        grids: (h_l, w_l) per level that is read.
    """
    count = sum(stretch.count for stretch in stretches)
    out = [np.empty((count, h, w), dtype=np.int64) for h, w in grids]
    begin = 0
    for stretch in stretches:
        for starts, values, level in zip(stretch.group.starts, stretch.group.values, out, strict=False):
            rows = level[begin : begin + stretch.count].reshape(-1)
            start = int(starts[stretch.first])
            rows[:] = values[start : start + rows.size]
        begin += stretch.count
    return out


def gather_image(stretches: Sequence[Stretch]) -> NDArray[np.int64]:
    """(n, M) int64: the ids of the image tokens of n rows.

    Args:
        stretches: The rows, in their order.
    """
    return np.concatenate([s.group.image_ids[s.first : s.first + s.count] for s in stretches]).astype(np.int64)


def gather_sparse(stretches: Sequence[Stretch], grids: Sequence[tuple[int, int]]) -> list[NDArray[np.int64]]:
    """(n, h_l, w_l) int64 per level: the ids of n rows of one image size, -1 where a cell is absent.

    Args:
        stretches: The rows, in their order.
        grids: (h_l, w_l) per level that is read.
    """
    out: list[NDArray[np.int64]] = []
    for level, (height, width) in enumerate(grids):
        ids = np.concatenate([_part(s.group.values[level], s.group.starts[level], s) for s in stretches])
        if not out:
            out.append(ids.astype(np.int64).reshape(-1, height, width))
            continue
        splits = np.concatenate(
            [_part(s.group.splits[level - 1], s.group.split_starts[level - 1], s) for s in stretches]
        )
        present = presence_of_bits(splits.astype(bool), out[-1], height // out[-1].shape[1])
        cells = np.full(present.shape, ABSENT, np.int64)
        cells[present] = ids
        out.append(cells)
    return out


def _part(values: NDArray[Any], starts: NDArray[np.int32], stretch: Stretch) -> NDArray[Any]:
    return values[int(starts[stretch.first]) : int(starts[stretch.first + stretch.count])]

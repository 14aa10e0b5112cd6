"""Backbones that run by rows (see `rows.py`): those that are chains of units, tried on a small image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyramid_tokenizer.backbones.base import RowReader
from pyramid_tokenizer.backbones.reader import Chain, MapReader
from pyramid_tokenizer.backbones.rows import Reach, RowStream, Unit, measure_reach, with_last
from pyramid_tokenizer.backbones.stem import keep_stem

STEM = -1
"""What stands for the stem where blocks are numbered."""

_PROBE_CELLS = 4
"""The side of the small image, in sides of the smallest one that the backbone reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaches:
    """What each unit of a backbone depends on."""

    units: tuple[Reach, ...]
    stem: tuple[Reach, ...]
    """Of the stem where it is read; otherwise empty."""


def measure_reaches(reader: MapReader, stem: nn.Module | None, *, like: Tensor) -> Reaches | None:
    """What each unit depends on; None for a backbone that is no chain of units, which must read images whole.

    On a small image of noise, the units one after the other must give the backbone's own maps, embedding and dense features.

    Args:
        reader: Of the backbone.
        stem: Its first convolution, watched by `watch_stem`; None where it is not read.
        like: A weight of the backbone.
    """
    chain = reader.chain()
    if chain is None:
        return None
    side = _PROBE_CELLS * reader.probe_px
    noise = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) - 0.5
    noise = noise.to(device=like.device, dtype=like.dtype)
    with keep_stem() as kept:
        own = reader.with_dense(noise, None)
    try:
        reaches, maps = _measure(chain.units, noise)
        stem_reaches, stem_maps = _measure(_stem_units(stem), noise)
        found = chain.finish(maps[-1])
    except (RuntimeError, TypeError, ValueError):  # parts that cannot run one after the other
        return None
    same_outputs = _equal(found.embedding, own.embedding) and _equal(found.dense, own.dense)
    if not same_outputs or not _all_equal(maps, own.maps) or not _all_equal(stem_maps, kept):
        return None
    return Reaches(units=reaches, stem=stem_reaches)


def run_by_rows(
    chain: Chain,
    reaches: Reaches,
    bands: Iterable[Tensor],
    read: RowReader,
    *,
    blocks: Sequence[int],
    stem: nn.Module | None,
    to_the_end: bool,
) -> Tensor | None:
    """Runs a backbone on bands of an image.

    Args:
        chain: The backbone's units.
        reaches: Of the same backbone.
        bands: (B, 3, h, W) each, normalised, from the top: all rows of an image in all.
        read: Gets the index of a block, or `STEM`, the next rows of its map, (B, C, h, w), and whether they are the last.
        blocks: Indices of the blocks to read, in increasing order.
        stem: The stem where it is to be read too.
        to_the_end: Whether the last block's map is wanted whole; otherwise units behind the last of `blocks` do not run.

    Returns:
        The last block's map where it is wanted.
    """
    ends = [index for index, unit in enumerate(chain.units, start=1) if unit.block == blocks[-1]]
    units = chain.units if to_the_end else chain.units[: ends[0]]
    main, side = _Streams(units, reaches.units), _Streams(_stem_units(stem), reaches.stem)
    wanted, found = {*blocks, STEM}, []
    for band, last in with_last(bands):
        for streams in (main, side):
            for block, rows in streams.push(band, last=last):
                if block in wanted:
                    read(block, rows, last)
                if to_the_end and block == chain.units[-1].block:
                    found.append(rows)
    return torch.cat(found, 2) if to_the_end else None


class _Streams:
    """Units that read rows, one after the other."""

    def __init__(self, units: Sequence[Unit], reaches: Sequence[Reach]):
        self._blocks = [unit.block for unit in units]
        self._streams = [RowStream(run=unit.run, reach=reach) for unit, reach in zip(units, reaches, strict=False)]

    def push(self, band: Tensor, *, last: bool) -> Iterator[tuple[int, Tensor]]:
        """Index of a block and the next rows of its map, for each block of which there are some."""
        rows: Tensor | None = band
        for block, stream in zip(self._blocks, self._streams, strict=True):
            rows = stream.push(rows, last=last)
            if rows is None:
                return
            if block is not None:
                yield block, rows


def _stem_units(stem: nn.Module | None) -> list[Unit]:
    return [] if stem is None else [Unit(run=stem, block=STEM)]


def _measure(units: Sequence[Unit], x: Tensor) -> tuple[tuple[Reach, ...], list[Tensor]]:
    """The reach of each unit, and the maps of their blocks."""
    reaches, maps = [], []
    for unit in units:
        reaches.append(measure_reach(unit.run, x))
        x = unit.run(x)
        maps += [x] if unit.block is not None else []
    return tuple(reaches), maps


def _all_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return len(found) == len(expected) and all(map(_equal, found, expected))


def _equal(found: Tensor | None, expected: Tensor | None) -> bool:
    return found is expected if found is None or expected is None else torch.equal(found, expected)

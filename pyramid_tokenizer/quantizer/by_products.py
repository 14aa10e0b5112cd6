"""Ids of a large image of which no map of the backbone was kept, only its products with the adapters of the levels.

A level's adapter is linear, so that parts of a map, rows (`by_rows.py`) or windows (`by_windows.py`), are multiplied by it as
they come, and only the products are kept, a few numbers for each cell. When all have come, the levels are computed one after
the other, each in bands of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.checks.devices import exact_float32
from pyramid_tokenizer.quantizer.level import LevelQuantizer, float32_on
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.quantizer.regrid import InputPart, Part, Product, regridded_channels

BAND_PIXELS = 2**20
"""Pixels of all images together of which ids of a level are computed at a time."""

_HALO = 2
"""Rows of level 0 at either side of a band: the linear reconstruction of coarser levels depends on less, as each enlargement
reaches one pixel of what it enlarges, and a cell of level 0 decodes to one pixel or more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MapAdapter:
    """The part of a level's adapter that reads one of the backbone's maps."""

    level: LevelQuantizer
    index: int
    """Of the map, 0 = coarsest."""
    own: int
    """The map's stride."""
    wanted: int
    """The level's stride."""
    columns: slice
    """Of the adapter's matrix."""

    @property
    def channels(self) -> int:
        """The number of columns."""
        return self.columns.stop - self.columns.start

    def times(self, part: Tensor) -> Tensor:
        """The product of a part of the map, (B, C, h, w) float32, on the level's grid: (B, d, h', w') float32."""
        weight = (self.level.adapter.weight / self.level.std)[:, self.columns]
        return InputPart(part, self.own, self.wanted).times(weight)


def map_adapters(
    quantizer: PyramidQuantizer, *, channels: Sequence[int], strides: Sequence[int], levels: int | None
) -> dict[int, list[MapAdapter]]:
    """The adapters of levels, in the order in which their ids are computed: each map by map, in the order it reads them.

    Args:
        quantizer: All levels.
        channels: Channels of each of the backbone's maps, coarse to fine.
        strides: Input pixels per cell of each.
        levels: How many of the coarsest levels; None for all but the detail levels.

    Raises:
        NotFittedError: The codebooks are empty.
    """
    quantizer.require_fitted()
    return {index: list(_adapters_of(quantizer, index, channels, strides)) for index in quantizer.first_levels(levels)}


def _adapters_of(
    quantizer: PyramidQuantizer, index: int, channels: Sequence[int], strides: Sequence[int]
) -> Iterator[MapAdapter]:
    read, first = quantizer.reads[index], 0
    for number in read.maps:
        own = strides[number]
        columns = slice(first, first + regridded_channels(channels[number], own, read.stride))
        yield MapAdapter(level=quantizer.level(index), index=number, own=own, wanted=read.stride, columns=columns)
        first = columns.stop


@torch.no_grad()
def ids_of_products(
    quantizer: PyramidQuantizer,
    levels: Sequence[int],
    products_of: Callable[[int], Sequence[Product]],
    outputs: FeaturePyramid,
) -> tuple[Tensor, ...]:
    """Ids per level, coarse to fine: (B, h_l, w_l) int64 each.

    Args:
        quantizer: All levels.
        levels: Those to compute, in the order of `map_adapters`.
        products_of: Gives the products of whole maps that a level reads, in the order of its adapters; called once for each.
        outputs: Embedding and dense features of the batch, where a level reads them. Its maps are not read.

    Raises:
        BackboneError, CheckpointError: Features or weights that decide ids are NaN or infinite.
    """
    known: dict[int, Tensor] = {}
    for index in levels:
        products = products_of(index)
        with float32_on(products[0].product.device), exact_float32():
            known[index] = _level_ids(quantizer, index, products, outputs, known)
    quantizer.require_finite(outputs, [quantizer.level(index).codebook for index in known])
    return tuple(known[index] for index in sorted(known))


def _level_ids(
    quantizer: PyramidQuantizer,
    index: int,
    products: Sequence[Product],
    outputs: FeaturePyramid,
    known: Mapping[int, Tensor],
) -> Tensor:
    """Ids (B, h, w) of a level, of the products of its maps and the ids of the levels before it."""
    level, (count, _, height, width) = quantizer.level(index), products[0].product.shape
    pixels = count * height * width * quantizer.strides[index] ** 2
    heights = [height, *(ids.shape[1] for ids in known.values())]
    heights += [outputs.dense.shape[2]] if outputs.dense is not None else []
    steps, found = math.gcd(*heights), []  # rows of the coarsest grid
    band = max(1, BAND_PIXELS * steps // pixels)
    for start in range(0, steps, band):
        stop = min(start + band, steps)
        first, last = max(0, start - _HALO), min(steps, stop + _HALO)

        def cut(x: Tensor, first: int = first, last: int = last) -> Tensor:
            rows = x.shape[-2] // steps
            return x[..., first * rows : last * rows, :]

        linear = level.linear(_parts(quantizer, index, products, outputs, known, cut))
        rows = height // steps
        linear = linear[:, :, (start - first) * rows : (stop - first) * rows]
        quantizer.require_finite(outputs, [linear])
        found.append(level.assign(level.constrain(linear)))
    return torch.cat(found, 1)


def _parts(
    quantizer: PyramidQuantizer,
    index: int,
    products: Sequence[Product],
    outputs: FeaturePyramid,
    known: Mapping[int, Tensor],
    cut: Callable[[Tensor], Tensor],
) -> list[Part | Product]:
    """What a level reads, in the rows that `cut` takes of every map."""
    read = quantizer.reads[index]
    parts: list[Part | Product] = [replace(part, product=cut(part.product)) for part in products]
    if read.reads_dense:
        own = outputs if outputs.dense is None else replace(outputs, dense=cut(outputs.dense))
        parts.append(read.dense_part(own, cut(products[0].product).shape[-2:]))
    codes = {other: quantizer.level(other).look_up(cut(ids)) for other, ids in known.items()}
    return [*parts, *quantizer.composition.context(quantizer, index, codes)]

"""Ids of a large image whose features come row by row: the same as of the whole, without holding a map of the backbone.

A level's adapter is linear, so that the rows of a map are multiplied by it as they come and only the products are kept, a few
numbers for each cell. When all have come, the levels are computed one after the other, each in bands of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.backbones.rows import Reach, RowStream
from pyramid_tokenizer.checks.devices import exact_float32
from pyramid_tokenizer.quantizer.level import LevelQuantizer, float32_on
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.quantizer.regrid import InputPart, Part, Product, regridded_channels

BAND_PIXELS = 2**20
"""Pixels of all images together of which ids of a level are computed at a time."""

_HALO = 2
"""Rows of level 0 at either side of a band: the linear reconstruction of coarser levels depends on less, as each enlargement
reaches one pixel of what it enlarges, and a cell of level 0 decodes to one pixel or more."""


class RowQuantizer:
    """Computes the ids of one batch from rows of its features.

    Args:
        quantizer: All levels.
        channels: Channels of each of the backbone's maps, coarse to fine.
        strides: Input pixels per cell of each.
        levels: How many of the coarsest levels; None for all but the detail levels.

    Raises:
        NotFittedError: The codebooks are empty.

    Example:
        >>> from pyramid_tokenizer import PyramidTokenizer
        >>> tok = PyramidTokenizer.from_pretrained("tiny")
        >>> features = tok.features(torch.rand(1, 3, 96, 64), with_dense=True)
        >>> by_rows = RowQuantizer(tok.quantizer, channels=tok.backbone.channels, strides=tok.backbone.strides)
        >>> for index, whole in enumerate(features.maps):
        ...     by_rows.read(index, whole[:, :, :2], False)
        ...     by_rows.read(index, whole[:, :, 2:], True)
        >>> ids = by_rows.ids(features)
        >>> all(torch.equal(left, right) for left, right in zip(ids, tok.quantizer.encode(features)))
        True
    """

    def __init__(
        self,
        quantizer: PyramidQuantizer,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        levels: int | None = None,
    ):
        quantizer.require_fitted()
        self._quantizer, self._strides = quantizer, tuple(strides)
        self._levels = quantizer.first_levels(levels)
        self._products = {level: list(self._products_of(level, channels)) for level in self._levels}

    def _products_of(self, level: int, channels: Sequence[int]) -> Iterator[_Product]:
        read, first = self._quantizer.reads[level], 0
        for number in read.maps:
            own = self._strides[number]
            count = regridded_channels(channels[number], own, read.stride)
            columns = slice(first, first + count)
            yield _Product(self._quantizer.level(level), columns, index=number, own=own, wanted=read.stride)
            first += count

    @torch.no_grad()
    def read(self, index: int, rows: Tensor, last: bool) -> None:
        """Takes the next rows of one of the backbone's maps.

        Args:
            index: Of the map, 0 = coarsest.
            rows: (B, C, h, w) float.
            last: Whether the map ends with them.

        Raises:
            BackboneError: They are NaN or infinite.
        """
        FeaturePyramid(maps=(rows,), strides=(self._strides[index],)).require_finite()
        with float32_on(rows.device), exact_float32():
            for products in self._products.values():
                for product in products:
                    if product.index == index:
                        product.read(rows.float(), last=last)

    @torch.no_grad()
    def ids(self, outputs: FeaturePyramid) -> tuple[Tensor, ...]:
        """Ids per level, coarse to fine, when all rows have come: (B, h_l, w_l) int64 each.

        Args:
            outputs: Embedding and dense features of the batch, where a level reads them. Its maps are not read.

        Raises:
            BackboneError, CheckpointError: Features or weights that decide ids are NaN or infinite.
        """
        known: dict[int, Tensor] = {}
        for index in self._levels:
            products = [product.whole() for product in self._products.pop(index)]
            with float32_on(products[0].product.device), exact_float32():
                known[index] = self._level_ids(index, products, outputs, known)
        self._quantizer.require_finite(outputs, [self._quantizer.level(index).codebook for index in known])
        return tuple(known[index] for index in sorted(known))

    def _level_ids(
        self, index: int, products: Sequence[Product], outputs: FeaturePyramid, known: Mapping[int, Tensor]
    ) -> Tensor:
        """Ids (B, h, w) of a level, of the products of its maps and the ids of the levels before it."""
        level, (count, _, height, width) = self._quantizer.level(index), products[0].product.shape
        pixels = count * height * width * self._quantizer.strides[index] ** 2
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

            linear = level.linear(self._parts(index, products, outputs, known, cut))
            rows = height // steps
            linear = linear[:, :, (start - first) * rows : (stop - first) * rows]
            self._quantizer.require_finite(outputs, [linear])
            found.append(level.assign(level.constrain(linear)))
        return torch.cat(found, 1)

    def _parts(
        self,
        index: int,
        products: Sequence[Product],
        outputs: FeaturePyramid,
        known: Mapping[int, Tensor],
        cut: Callable[[Tensor], Tensor],
    ) -> list[Part | Product]:
        """What a level reads, in the rows that `cut` takes of every map."""
        quantizer, read = self._quantizer, self._quantizer.reads[index]
        parts: list[Part | Product] = [replace(part, product=cut(part.product)) for part in products]
        if read.reads_dense:
            own = outputs if outputs.dense is None else replace(outputs, dense=cut(outputs.dense))
            parts.append(read.dense_part(own, cut(products[0].product).shape[-2:]))
        codes = {other: quantizer.level(other).look_up(cut(ids)) for other, ids in known.items()}
        return [*parts, *quantizer.composition.context(quantizer, index, codes)]


class _Product:
    """What the adapter of a level gives of one map, gathered from rows of it."""

    def __init__(self, level: LevelQuantizer, columns: slice, *, index: int, own: int, wanted: int):
        self.index = index
        self._columns = columns
        self._found: list[Tensor] = []

        def times(rows: Tensor) -> Tensor:
            return InputPart(rows, own, wanted).times((level.adapter.weight / level.std)[:, columns])

        self._stream = RowStream(run=times, reach=Reach(ratio=max(1, wanted // own), halo=0))

    def read(self, rows: Tensor, *, last: bool) -> None:
        found = self._stream.push(rows, last=last)
        self._found += [] if found is None else [found]

    def whole(self) -> Product:
        """The product of the whole map."""
        product, self._found = torch.cat(self._found, 2), []
        return Product(product, channels=self._columns.stop - self._columns.start)

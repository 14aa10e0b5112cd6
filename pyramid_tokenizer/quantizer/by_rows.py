"""Ids of a large image whose features come row by row: the same as of the whole, without holding a map of the backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.backbones.rows import Reach, RowStream
from pyramid_tokenizer.checks.devices import exact_float32
from pyramid_tokenizer.quantizer.by_products import MapAdapter, ids_of_products, map_adapters
from pyramid_tokenizer.quantizer.level import float32_on
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.quantizer.regrid import Product


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
        self._quantizer, self._strides = quantizer, tuple(strides)
        adapters = map_adapters(quantizer, channels=channels, strides=strides, levels=levels)
        self._products = {level: list(map(_Product, own)) for level, own in adapters.items()}

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

    def ids(self, outputs: FeaturePyramid) -> tuple[Tensor, ...]:
        """Ids per level, coarse to fine, when all rows have come: (B, h_l, w_l) int64 each.

        Args:
            outputs: Embedding and dense features of the batch, where a level reads them. Its maps are not read.

        Raises:
            BackboneError, CheckpointError: Features or weights that decide ids are NaN or infinite.
        """

        def products_of(index: int) -> list[Product]:
            return [product.whole() for product in self._products.pop(index)]

        return ids_of_products(self._quantizer, list(self._products), products_of, outputs)


class _Product:
    """What the adapter of a level gives of one map, gathered from rows of it."""

    def __init__(self, adapter: MapAdapter):
        self.index = adapter.index
        self._channels = adapter.channels
        self._found: list[Tensor] = []
        reach = Reach(ratio=max(1, adapter.wanted // adapter.own), halo=0)
        self._stream = RowStream(run=adapter.times, reach=reach)

    def read(self, rows: Tensor, *, last: bool) -> None:
        found = self._stream.push(rows, last=last)
        self._found += [] if found is None else [found]

    def whole(self) -> Product:
        """The product of the whole map."""
        product, self._found = torch.cat(self._found, 2), []
        return Product(product, channels=self._channels)

"""Ids of a large image whose features come window by window, without holding a map of the backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.backbones.windows import JoinedMap, Windows
from pyramid_tokenizer.checks.devices import exact_float32
from pyramid_tokenizer.quantizer.by_products import ids_of_products, map_adapters
from pyramid_tokenizer.quantizer.level import float32_on
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.quantizer.regrid import Product


class WindowQuantizer:
    """Computes the ids of one image from the features of its windows.

    What the adapter of a level gives of the windows is joined, on the grid of that level. It is linear, so that this is what it
    gives of the joined maps, where these are on the same grid.

    Args:
        quantizer: All levels.
        windows: Of the image.
        channels: Channels of each of the backbone's maps, coarse to fine.
        strides: Input pixels per cell of each.
        levels: How many of the coarsest levels; None for all but the detail levels.

    Raises:
        NotFittedError: The codebooks are empty.

    Example:
        >>> from pyramid_tokenizer import PyramidTokenizer
        >>> tok = PyramidTokenizer.from_pretrained("tiny")
        >>> image, maps = torch.rand(1, 3, 128, 192), {"channels": tok.backbone.channels, "strides": tok.backbone.strides}
        >>> windows = Windows.of((128, 192), window_px=128, multiple_px=tok.multiple_px)
        >>> by_windows = WindowQuantizer(tok.quantizer, windows, **maps)
        >>> for top, left in windows.corners:
        ...     window = image[:, :, top : top + 128, left : left + 128]
        ...     by_windows.read([(top, left)], tok.features(window, with_dense=True))
        >>> [tuple(ids.shape) for ids in by_windows.ids(tok.features(image, with_dense=True))]
        [(1, 4, 6), (1, 8, 12), (1, 16, 24)]
    """

    def __init__(
        self,
        quantizer: PyramidQuantizer,
        windows: Windows,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        levels: int | None = None,
    ):
        self._quantizer = quantizer
        adapters = map_adapters(quantizer, channels=channels, strides=strides, levels=levels)
        self._joined = {level: [(one, JoinedMap(windows)) for one in own] for level, own in adapters.items()}

    @torch.no_grad()
    def read(self, corners: Sequence[tuple[int, int]], features: FeaturePyramid) -> None:
        """Takes the maps of some windows.

        Args:
            corners: First row and column of each in the image, in pixels.
            features: Of a batch of these windows; only its maps are read.

        Raises:
            BackboneError: They are NaN or infinite.
        """
        features.require_finite()
        with float32_on(features.maps[0].device), exact_float32():
            for joined in self._joined.values():
                for adapter, product in joined:
                    product.add(corners, adapter.times(features.maps[adapter.index].float()))

    def ids(self, outputs: FeaturePyramid) -> tuple[Tensor, ...]:
        """Ids per level, coarse to fine, when all windows have come: (1, h_l, w_l) int64 each.

        Args:
            outputs: Embedding and dense features of the image, where a level reads them. Its maps are not read.

        Raises:
            BackboneError, CheckpointError: Features or weights that decide ids are NaN or infinite.
        """

        def products_of(index: int) -> list[Product]:
            return [Product(joined.whole, channels=adapter.channels) for adapter, joined in self._joined.pop(index)]

        return ids_of_products(self._quantizer, list(self._joined), products_of, outputs)

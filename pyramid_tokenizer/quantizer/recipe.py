"""The recipe: levels, codebooks and decoder for any backbone, from the channels and strides of its maps.

`from_backbone`, `train` and the bundled model share it. The reference is the bundled model, whose backbone gives maps at
strides 32, 16, 8 and 4: levels of strides 32, 16 and 8 with 4,096 entries each, .246 bit per pixel. The rules below adapt it
to other strides; `docs/backbones.md` lists what they make of open_clip's backbones, and `benchmarks/recipe.py` measures
the recipe and its variants on a backbone and a labelled folder of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyramid_tokenizer.config.models import (
    BackboneConfig,
    Composition,
    DecoderConfig,
    LevelConfig,
    QuantizerConfig,
    TokenizerConfig,
)
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.quantizer.regrid import regridded_channels

MAX_BITS_PER_PX = 0.255
"""Of all levels together. The reference has .246; a fourth level at stride 64 adds .003."""
MAX_CHANNELS = 4096
"""Beyond it a level reads one map in place of two: the gradient-free fit costs the square of the channels and, where they cut
its sample of cells, another pass over the images. One map per level costs the reference 0.07 dB, at level 0 alone nothing."""

# From the finest level upwards; levels beyond the third repeat the last column. The coarse levels carry the semantics: few
# cells, many dimensions, and dense features to read; the finest carries pixels alone.
_BITS = (12, 12, 12)
_DIMS = (16, 32, 64)
_SEMANTIC_WEIGHTS = (0.0, 0.55, 0.68)
"""Chosen on an unfinished backbone of the bundled model: .7 and .8 gain 1 point of zero-shot accuracy from tokens and cost
.4 dB, .9 dB at level 0."""


def preset_config(
    backbone: BackboneConfig,
    *,
    channels: Sequence[int],
    strides: Sequence[int],
    levels: Sequence[LevelConfig] = (),
    composition: Composition = "residual",
) -> TokenizerConfig:
    """A tokenizer's whole config for a backbone, by the recipe.

    Args:
        backbone: Which backbone, and which of its blocks.
        channels: Channels of its maps, coarse to fine.
        strides: Strides of its maps, coarse to fine.
        levels: Levels of your own, coarse to fine, in place of `preset_levels`.
        composition: How levels build on each other.

    Raises:
        ConfigError: `levels` do not go from coarse to fine, or there are no maps.

    Example:
        >>> config = preset_config(BackboneConfig(kind="toy"), channels=(32, 24, 16, 8), strides=(32, 16, 8, 4))
        >>> [(level.stride, level.maps, level.codebook_size) for level in config.quantizer.levels]
        [(32, (0, 1), 4096), (16, (1, 2), 4096), (8, (2, 3), 4096)]
    """
    levels = tuple(levels) or preset_levels(channels=channels, strides=strides)
    quantizer = QuantizerConfig(levels=levels, composition=composition)
    return TokenizerConfig(backbone=backbone, quantizer=quantizer, decoder=preset_decoder(levels))


def preset_levels(*, channels: Sequence[int], strides: Sequence[int]) -> tuple[LevelConfig, ...]:
    """The levels of the recipe, coarse to fine.

    The finest level has a stride of 6 to 11 px where the maps allow it, each coarser one twice that, up to the coarsest map
    and at least three of them. A map is refined at most twofold: each of the r x r places in a cell needs r x r times the
    channels, so that a backbone of patch 32, or of an odd patch, gets a residual stage (two levels of one grid) instead.
    A level reads the map of its own stride and the next finer one; of a ViT, whose maps share one stride, coarse levels read
    deep blocks and fine levels shallow ones. All levels but the finest also read the dense features. Where the grids are so
    fine that 4,096 entries per level exceed `MAX_BITS_PER_PX`, the finest level gets fewer.

    Args:
        channels: Channels of the maps, coarse to fine.
        strides: Strides of the maps, coarse to fine.

    Raises:
        ConfigError: No maps, or as many channels as strides are not given.

    Example:
        >>> vit = preset_levels(channels=(768, 768, 768, 768), strides=(16, 16, 16, 16))
        >>> [(level.stride, level.maps) for level in vit]
        [(32, (0,)), (16, (1, 2)), (8, (3,))]
        >>> [level.stride for level in preset_levels(channels=(768,), strides=(32,))]
        [32, 16, 16]
    """
    if not strides or len(channels) != len(strides):
        raise ConfigError(
            f"expected channels and strides of a backbone's maps, got {tuple(channels)} and {tuple(strides)}: "
            "give Backbone.channels and Backbone.strides"
        )
    grids = _level_strides(strides)
    count = len(grids)
    columns = _bits(grids), _per_level(_DIMS, count), _per_level(_SEMANTIC_WEIGHTS, count)
    return tuple(
        LevelConfig(
            stride=grids[index],
            maps=_maps(index, grids, channels, strides),
            codebook_size=2**bits,
            dim=dim,
            semantic_weight=weight,
            reads_dense=weight > 0,
        )
        for index, (bits, dim, weight) in enumerate(zip(*columns, strict=True))
    )


def preset_decoder(levels: Sequence[LevelConfig]) -> DecoderConfig:
    """The decoder of the recipe: as wide and deep as the bundled model's, with a pixel stage per doubling down to 4 px.

    Args:
        levels: Coarse to fine.

    Example:
        >>> preset_decoder(preset_levels(channels=(768,), strides=(32,))).pixel_widths
        (96, 64)
        >>> preset_decoder(preset_levels(channels=(768,), strides=(14,))).pixel_widths
        ()
    """
    count = len(levels)
    stages, stride = 0, levels[-1].stride
    while stride % 2 == 0 and stride > 4:
        stages, stride = stages + 1, stride // 2
    return DecoderConfig(
        widths=(96, *(128,) * (count - 1)),
        depths=(*(2,) * (count - 1), 4),
        pixel_widths=(*(96,) * (stages - 1), 64) if stages else (),
        pixel_depth=2,
    )


def _level_strides(strides: Sequence[int]) -> list[int]:
    finest = strides[-1]
    while finest < 6:
        finest *= 2
    if finest > 11 and finest % 2 == 0:
        finest //= 2
    grids = [2 * finest, finest, finest] if finest > 11 else [4 * finest, 2 * finest, finest]
    while 2 * grids[0] <= strides[0]:
        grids.insert(0, 2 * grids[0])
    return grids


def _bits(grids: Sequence[int]) -> list[int]:
    """log2 of codebook sizes: the reference's, cut at the finest level until their rate fits.

    Measured on the bundled backbone (98 names, 200 photos, 1,200 crops of 160 px, `benchmarks/recipe.py`'s figures, .184 bit
    per pixel): 4,096, 4,096 and 256 entries give 51.0 % from tokens and 15.12, 19.01 and 21.51 dB by prefix; 512 at each level
    give 47.0 % and 14.68, 18.11 and 21.46 dB.
    """
    bits = _per_level(_BITS, len(grids))
    while sum(value / stride**2 for value, stride in zip(bits, grids, strict=True)) > MAX_BITS_PER_PX:
        bits[-1] -= 1
    return bits


def _maps(index: int, grids: Sequence[int], channels: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    stride, last = grids[index], len(strides) - 1
    if len(set(strides)) == 1:
        own = index * last // (len(grids) - 1)
    else:
        own = next((i for i, native in enumerate(strides) if stride % native == 0), last)
    pair = range(own, min(own + 1, last) + 1)
    width = sum(regridded_channels(channels[i], strides[i], stride) for i in pair)
    return tuple(pair) if width <= MAX_CHANNELS else (own,)


def _per_level(column: Sequence[Any], count: int) -> list[Any]:
    """A column that starts at the finest level, for `count` levels coarse to fine."""
    return [column[min(steps, len(column) - 1)] for steps in reversed(range(count))]

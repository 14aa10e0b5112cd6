"""The recipe: image tokens, levels, codebooks and decoder for any backbone, from the strides of its maps.

Every level reads the stem, which holds the pixels; all levels but the finest also read the dense features, which hold the
semantics. Levels have strides of 32, 16 and 8 px on most backbones. The rules below adapt them to other strides;
`docs/backbones.md` lists what they make of open_clip's backbones, and `benchmarks/recipe.py` measures the recipe and its
variants on a backbone and a labelled folder of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyramid_tokenizer.checks.arguments import check_kind
from pyramid_tokenizer.config.models import (
    BackboneConfig,
    Composition,
    DecoderConfig,
    LevelConfig,
    QuantizerConfig,
    TokenizerConfig,
)
from pyramid_tokenizer.errors import ConfigError

MAX_BITS_PER_PX = 0.255
"""Of all levels together."""

# From the finest level upwards; levels beyond the third repeat the last column. The coarse levels carry the semantics: few
# cells, many dimensions, and dense features to read; the finest carries pixels alone, and most of the bits.
_BITS = (13, 10, 12)
_DIMS = (16, 32, 64)
_SEMANTIC_WEIGHTS = (0.0, 0.55, 0.68)
"""Chosen on an unfinished backbone of the bundled model: .7 and .8 gain 1 point of zero-shot accuracy from tokens and cost
.4 dB, .9 dB at level 0."""


IMAGE_CODEBOOKS = (256,) * 8
"""Entries of each image token. Measured with image tokens alone on a distilled ViT that knows 30.3 % of 651 photos (153 names,
mean of two seeds): three of them keep 25.5 % and a cosine of .78 with the image embedding, eight 26.5 % and .85; fitted on 4,800
crops in place of 1,200, 26.0 % and .80, 26.6 % and .88. Fitted on 1,200 crops, more than eight have nothing left to learn."""


def preset_config(
    backbone: BackboneConfig,
    *,
    strides: Sequence[int],
    levels: Sequence[LevelConfig] = (),
    composition: Composition = "residual",
    image_codebooks: Sequence[int] | None = None,
) -> TokenizerConfig:
    """A tokenizer's whole config for a backbone, by the recipe.

    Args:
        backbone: Which backbone, and which of its maps; with its stem.
        strides: Strides of its maps, coarse to fine.
        levels: Levels of your own, coarse to fine, in place of `preset_levels`.
        composition: How levels build on each other.
        image_codebooks: Entries of the codebook of each image token. None: the recipe's, or none beside levels of your own.

    Raises:
        ConfigError: `levels` do not go from coarse to fine, or there are no maps.

    Example:
        >>> backbone = BackboneConfig(kind="toy", stem=True)
        >>> config = preset_config(backbone, strides=(32, 16, 8, 4, 4))
        >>> [(level.stride, level.maps, level.codebook_size) for level in config.quantizer.levels]
        [(32, (4,), 4096), (16, (4,), 1024), (8, (4,), 8192)]
    """
    check_kind(levels, Sequence, name="levels", fix="write a list such as [LevelConfig(stride=8, ...)]")
    if image_codebooks is None:
        image_codebooks = () if levels else IMAGE_CODEBOOKS
    levels = tuple(levels) or preset_levels(strides)
    quantizer = QuantizerConfig(levels=levels, composition=composition, image_codebooks=tuple(image_codebooks))
    return TokenizerConfig(backbone=backbone, quantizer=quantizer, decoder=preset_decoder(levels))


def preset_levels(strides: Sequence[int]) -> tuple[LevelConfig, ...]:
    """The levels of the recipe, coarse to fine.

    The finest level has a stride of 6 to 11 px where the maps allow it, each coarser one twice that, up to the coarsest map
    and at least three of them. The stem is refined at most twofold: each of the r x r places in a cell needs r x r times the
    channels, so that a backbone of patch 32, or of an odd patch, gets a residual stage (two levels of one grid) instead.
    Every level reads the stem, the last of the maps, and all levels but the finest also read the dense features. On the bundled
    backbone levels that read blocks in place of the stem measure the same, and levels that read the last block lose the pixels
    (`benchmarks/recipe.py`, the variants "without-stem" and "last-layer"). Where the grids are so fine that the
    rate exceeds `MAX_BITS_PER_PX`, the finest level gets fewer entries.

    Args:
        strides: Strides of the maps, coarse to fine; the last is the stem's.

    Raises:
        ConfigError: No maps.

    Example:
        >>> vit = preset_levels((16, 16, 16, 16, 16))
        >>> [(level.stride, level.maps, level.reads_dense) for level in vit]
        [(32, (4,), True), (16, (4,), True), (8, (4,), False)]
        >>> [level.stride for level in preset_levels((32, 32))]
        [32, 16, 16]
    """
    if not strides:
        raise ConfigError("expected strides of a backbone's maps, got none: give Backbone.strides")
    grids = _level_strides(strides)
    count = len(grids)
    columns = _bits(grids), _per_level(_DIMS, count), _per_level(_SEMANTIC_WEIGHTS, count)
    return tuple(
        LevelConfig(
            stride=grids[index],
            maps=(len(strides) - 1,),
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
        >>> preset_decoder(preset_levels((32,))).pixel_widths
        (96, 64)
        >>> preset_decoder(preset_levels((14,))).pixel_widths
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
    """log2 of codebook sizes: those of `_BITS`, cut at the finest level until their rate fits."""
    bits = _per_level(_BITS, len(grids))
    while sum(value / stride**2 for value, stride in zip(bits, grids, strict=True)) > MAX_BITS_PER_PX:
        bits[-1] -= 1
    return bits


def _per_level(column: Sequence[Any], count: int) -> list[Any]:
    """A column that starts at the finest level, for `count` levels coarse to fine."""
    return [column[min(steps, len(column) - 1)] for steps in reversed(range(count))]

"""Layouts for any backbone: what the rules promise, over the backbones that there are and those that there might be."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.config.models import BackboneConfig, LevelConfig, TokenizerConfig
from pyramid_tokenizer.config.plain import from_dict, to_dict
from pyramid_tokenizer.decoder.pixels import PixelDecoder
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.recipe import (
    MAX_BITS_PER_PX,
    preset_config,
    preset_decoder,
    preset_levels,
)
from pyramid_tokenizer.quantizer.regrid import join_parts

TOY = BackboneConfig(kind="toy")


def layout(strides: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(v.stride, v.codebook_size) for v in preset_levels(strides)]


def bits_per_px(levels: tuple[LevelConfig, ...]) -> float:
    return sum(math.log2(level.codebook_size) / level.stride**2 for level in levels)


vits = st.builds(lambda patch, count: (patch,) * count, st.integers(1, 64), st.integers(1, 6))
trunks = st.builds(
    lambda finest, repeats: tuple(finest * 2**i for i, n in enumerate(repeats) for _ in range(n))[::-1],
    st.sampled_from([1, 2, 4, 8, 16]),
    st.lists(st.integers(1, 2), min_size=1, max_size=5),
)


@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        ((32, 16, 8, 4, 4), [(32, 4096), (16, 1024), (8, 8192)]),  # ConvNeXt-B: the stem is as fine as the first block
        ((32, 16, 8, 4, 2), [(32, 4096), (16, 1024), (8, 8192)]),  # RN50: the stem is finer
        ((64, 32, 16, 8, 4, 2), [(64, 4096), (32, 4096), (16, 1024), (8, 4096)]),  # MobileCLIP2-S3 ends at stride 64
        ((16,) * 5, [(32, 4096), (16, 1024), (8, 8192)]),  # ViT-B-16
        ((14,) * 5, [(28, 4096), (14, 1024), (7, 512)]),  # ViT-L-14: 2304 cells of 7 px in an image of 336 px
        ((32,) * 5, [(32, 4096), (16, 1024), (16, 8192)]),  # ViT-B-32: 8 px would be 16 places of 768 channels
        ((15,) * 5, [(30, 4096), (15, 1024), (15, 8192)]),  # a patch of 15 has no half
        ((16,), [(32, 4096), (16, 1024), (8, 8192)]),  # one map alone
    ],
)
def test_levels_of_a_backbone(strides, expected) -> None:
    assert layout(strides) == expected


@given(st.one_of(vits, trunks), st.integers(1, 2048))
def test_any_backbone_gets_a_pyramid_that_a_quantizer_and_a_decoder_take(strides: tuple[int, ...], width: int) -> None:
    channels = (width,) * len(strides)
    config = preset_config(TOY, strides=strides)
    levels, decoder = config.quantizer.levels, config.decoder
    bits = [math.log2(level.codebook_size) for level in levels]
    assert len(levels) >= 3
    assert bits[:-1] == [12] * (len(levels) - 2) + [10]  # the finest level alone gives way
    assert 1 <= bits[-1] <= 13
    assert [level.reads_dense for level in levels] == [True] * (len(levels) - 1) + [False]
    assert 0.0 < bits_per_px(levels) <= MAX_BITS_PER_PX
    assert {level.maps for level in levels} == {(len(strides) - 1,)}  # every level reads the stem
    for coarse, fine in itertools.pairwise(levels):
        assert coarse.stride in (fine.stride, 2 * fine.stride)
        assert coarse.semantic_weight >= fine.semantic_weight
        assert coarse.dim >= fine.dim
    with torch.device("meta"):
        build_quantizer(config.quantizer, channels=channels, strides=strides, embedding_dim=4)
        PixelDecoder(in_channels=decoder.widths[-1], stride=levels[-1].stride, widths=decoder.pixel_widths, depth=1)
    assert from_dict(TokenizerConfig, to_dict(config)) == config


@given(vits, st.integers(1, 3), st.integers(1, 3))
def test_the_quantizer_reads_such_a_backbone_at_every_size_in_level_0_cells(
    strides: tuple[int, ...], height: int, width: int
) -> None:
    config = preset_config(TOY, strides=strides, composition="none").quantizer
    coarsest = math.lcm(config.levels[0].stride, strides[0])
    maps = tuple(torch.zeros(1, 2, height * coarsest // s, width * coarsest // s) for s in strides)
    quantizer = build_quantizer(config, channels=(2,) * len(strides), strides=strides, embedding_dim=4)
    grids = []
    features = FeaturePyramid(maps=maps, strides=strides, embedding=torch.ones(1, 4))
    for index in quantizer.order:
        x = join_parts(quantizer.level_input(index, features, {}))
        assert x.shape[1] == quantizer.level(index).adapter.in_features
        grids.append(tuple(x.shape[2:]))
    assert grids == [(height * coarsest // v.stride, width * coarsest // v.stride) for v in config.levels]


@pytest.mark.parametrize(
    ("stride", "widths"), [(8, (64,)), (7, ()), (16, (96, 64)), (9, ()), (4, ()), (64, (96,) * 3 + (64,))]
)
def test_the_pixel_decoder_doubles_down_to_4_px_where_the_stride_can_be_halved(stride, widths) -> None:
    level = LevelConfig(stride=stride, maps=(0,), codebook_size=4, dim=2)
    assert preset_decoder([level]).pixel_widths == widths


def test_levels_of_ones_own_get_a_decoder_that_fits_them() -> None:
    levels = [LevelConfig(stride=s, maps=(0,), codebook_size=4, dim=2) for s in (64, 16)]
    config = preset_config(TOY, strides=(16,), levels=levels, composition="bottom_up")
    assert config.quantizer.levels == tuple(levels)
    assert config.quantizer.composition == "bottom_up"
    assert config.decoder.widths == (96, 128)
    assert config.decoder.pixel_widths == (96, 64)


def test_a_backbone_without_maps_is_refused() -> None:
    with pytest.raises(ConfigError, match="strides"):
        preset_config(TOY, strides=())

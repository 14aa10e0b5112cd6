"""Quantizers of every composition, kind of codebook and layout of levels, for the tests of this folder."""

import dataclasses
import functools

import torch
import torch.nn.functional as F
from torch import nn

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.config.models import BackboneConfig, LevelConfig, QuantizerConfig
from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.fit.levels import fit_quantizer
from pyramid_tokenizer.quantizer.recipe import preset_config, preset_levels

COMPOSITIONS = ("residual", "bottom_up", "none")
KINDS = ("euclidean", "cosine", "fsq")
SIZES = (9, 14, 33)
TOY = BackboneConfig(kind="toy")
LAYOUTS = {  # (stride, maps) per level
    "halving": ((32, (0, 1)), (16, (1, 2)), (8, (2, 3))),
    "residual stage": ((16, (1,)), (16, (1,)), (8, (2, 3))),
    "ratio 4": ((32, (0, 2)), (8, (2,))),
    "coarser than its map by 3 and 8": ((24, (2,)), (8, (2, 3))),
    "finer than its map, as for a ViT": ((32, (0,)), (16, (1,)), (8, (2, 1))),
}


class PatchBackbone(nn.Module):
    """Stands in for a ViT: three maps of stride 16."""

    channels, strides, embedding_dim = (10, 12, 14), (16, 16, 16), 16

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.kernels = [torch.randn(c, 3, 16, 16, generator=generator) / 28 for c in (*self.channels, 16)]

    def forward(self, images, *, with_dense=False):
        maps = [F.conv2d(images - 0.5, kernel, stride=16) for kernel in self.kernels]
        bent = tuple(m + m * m.abs() for m in maps[:3])
        return FeaturePyramid(maps=bent, strides=self.strides, dense=maps[3], embedding=maps[3].mean((2, 3)))


def backbone_of(layout):
    return PatchBackbone() if "ViT" in layout else ToyBackbone()


def pictures(count=6, height=96, width=96, seed=0):
    coarse = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


def codebook_of(kind, index):
    if kind == "fsq":
        return {"fsq": ((3, 3), (7, 2), (11, 3))[index], "dim": 2}
    return {"distance": kind, "dim": 5 + index, "reads_dense": kind == "cosine" and index < 2}


def config_of(composition, kind, layout):
    levels = tuple(
        LevelConfig(stride=stride, maps=maps, codebook_size=SIZES[i], **codebook_of(kind, i))
        for i, (stride, maps) in enumerate(LAYOUTS[layout])
    )
    return QuantizerConfig(levels=levels, composition=composition, image_codebooks=(5, 4))


def recipe_of(layout):
    """What `from_backbone` makes of the layout's backbone, with few entries."""
    backbone = backbone_of(layout)
    levels = preset_levels(backbone.strides)
    levels = tuple(dataclasses.replace(level, codebook_size=size) for level, size in zip(levels, SIZES, strict=True))
    config = preset_config(TOY, strides=backbone.strides, levels=levels)
    return dataclasses.replace(config.quantizer, image_codebooks=(5, 4))


def build(composition, kind="euclidean", layout="halving"):
    backbone = backbone_of(layout)
    config = recipe_of(layout) if composition == "recipe" else config_of(composition, kind, layout)
    return build_quantizer(
        config, channels=backbone.channels, strides=backbone.strides, embedding_dim=backbone.embedding_dim
    )


@functools.cache
def fitted(composition="residual", kind="euclidean", layout="halving"):
    """Fitted on six images; copy it before any change."""
    quantizer, backbone = build(composition, kind, layout), backbone_of(layout)
    images = pictures()
    fit_quantizer(quantizer, lambda: [(backbone(images, with_dense=True), images)], iterations=5)
    return quantizer


@functools.cache
def features_of(layout="halving", count=3, seed=7):
    return backbone_of(layout)(pictures(count, seed=seed), with_dense=True)


def one_image(features, index):
    rows = slice(index, index + 1)
    return FeaturePyramid(
        maps=tuple(m[rows] for m in features.maps), strides=features.strides, dense=features.dense[rows]
    )


def encode_slowly(quantizer, features):
    """Ids, codes and inputs by level, as `encode` is documented to work."""
    ids, codes, inputs = {}, {}, {}
    for index in quantizer.order:
        level = quantizer.level(index)
        inputs[index] = quantizer.level_input(index, features, codes)
        ids[index] = level.assign(level.project(inputs[index]))
        codes[index] = level.look_up(ids[index])
    return ids, codes, inputs


# the shipped recipe first; then residual levels on every layout, and the other compositions on some, the kinds of
# codebooks taking turns
CASES = [("recipe", "", "halving"), ("recipe", "", "finer than its map, as for a ViT")]
CASES += [
    (composition, KINDS[(i + j) % 3], layout)
    for i, composition in enumerate(COMPOSITIONS)
    for j, layout in enumerate(LAYOUTS)
    if composition == "residual" or (i + j) % 2
]

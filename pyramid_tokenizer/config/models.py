"""Configuration: data only, frozen, checked where it is made. `PyramidTokenizer.from_config` turns it into modules.

TokenizerConfig
├── backbone:  BackboneConfig     which frozen backbone, and which of its blocks are read
├── quantizer: QuantizerConfig    one LevelConfig per level, and how levels build on each other
├── decoder:   DecoderConfig      width and depth of the shared trunk and of the pixel decoder
└── segmentation: SegmentationConfig or None   the optional segmentation head
"""

from __future__ import annotations

import itertools
import math
import typing
from dataclasses import dataclass
from typing import Literal

from pyramid_tokenizer.errors import ConfigError

FORMAT_VERSION = 1
"""Written into every config.json; a newer one is refused."""


Composition = Literal["residual", "bottom_up", "none"]
"""How levels build on each other; docs/design.md describes the three."""


Distance = Literal["euclidean", "cosine"]


def check(condition: bool, expected: str, got: object, fix: str) -> None:
    """Raises ConfigError where a condition does not hold: expected, got, what to do."""
    if not condition:
        raise ConfigError(f"expected {expected}, got {got!r}: {fix}")


def check_format(version: object) -> None:
    """Raises ConfigError for the `format_version` of another release."""
    fix = "install the pyramid-tokenizer release that wrote it"
    check(version == FORMAT_VERSION, f"format_version {FORMAT_VERSION}", version, fix)


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """Which frozen backbone a tokenizer stands on."""

    kind: Literal["open_clip", "toy"] = "open_clip"
    """The adapter that loads it."""
    name: str = ""
    """open_clip model name, e.g. "ViT-B-16"; "" when the backbone lies in the model's own backbone/ folder."""
    pretrained: str | None = None
    """open_clip weight tag, e.g. "openai"; None when the backbone lies in the model's own backbone/ folder."""
    blocks: tuple[int, ...] = ()
    """Indices for open_clip's `forward_intermediates`, shallow to deep; () takes the family's preset."""
    stem: bool = False
    """Whether the stem, the first convolution read before any normalisation, is one more map, the finest; the recipe reads it."""
    fingerprint: str = ""
    """SHA-256 over the backbone's weights, checked at loading; "" before the first save."""
    dense_reading: str = ""
    """Which of the backbone's text-aligned maps per location codes learn from, one of `Backbone.dense_readings`, e.g. "vv" of
    a ViT; "" takes the family's default. Ids of a fitted model do not depend on it."""

    def __post_init__(self) -> None:
        check(self.kind in ("open_clip", "toy"), 'backbone.kind "open_clip" or "toy"', self.kind, "name one of the two")
        numbers = isinstance(self.blocks, tuple) and all(isinstance(block, int) for block in self.blocks)
        check(numbers, "backbone.blocks as whole numbers", self.blocks, "write e.g. (3, 7, 11)")
        check(
            list(self.blocks) == sorted(set(self.blocks)),
            "backbone.blocks in increasing order",
            self.blocks,
            "sort them and drop repeats",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelConfig:
    """One level of the token pyramid."""

    stride: int
    """Input pixels per cell, at least 1."""
    maps: tuple[int, ...]
    """Which of the backbone's maps the level reads: indices into `FeaturePyramid.maps`, 0 = coarsest."""
    codebook_size: int
    """K, entries of the codebook, at least 2."""
    dim: int
    """d, dimensions of one entry, at least 1."""
    distance: Distance = "euclidean"
    """How the nearest entry is found: "euclidean" keeps the amplitude of features, "cosine" compares directions alone, with
    entries of unit norm."""
    semantic_weight: float = 0.0
    """Part of the gradient-free fit's target, in [0, 1], that is semantic (the backbone's dense features, or its image
    embedding where it has none); the rest is pixels."""
    fsq: tuple[int, ...] = ()
    """Finite scalar quantisation: entries per dimension, `dim` numbers of 2 or more whose product is `codebook_size`; ()
    learns the codebook. The first dimensions vary most, so larger numbers come first: (8, 8, 4) makes 256 entries,
    (8, 5, 5, 5) 1,000, (16, 8, 8, 8) 8,192, (8, 8, 8, 6, 5) 15,360. A grid cannot collapse and needs no k-means, but learned
    entries reconstruct better at equal size: by .5 to 1 dB in as many dimensions, by 2 dB in 8 to 16 of them (three levels
    on the bundled backbone)."""
    reads_dense: bool = False
    """Whether the level also reads the backbone's dense features (its image embedding where it has none), so that codes can
    follow semantics that the maps do not predict linearly; the backbone's head then runs at every encode."""

    def __post_init__(self) -> None:
        check(self.stride >= 1, "stride >= 1", self.stride, "give the input pixels per cell")
        check(
            len(self.maps) >= 1,
            "at least one map per level",
            self.maps,
            "give the indices of the backbone's maps that it reads",
        )
        check(self.codebook_size >= 2, "codebook_size >= 2", self.codebook_size, "a codebook needs two entries or more")
        check(self.dim >= 1, "dim >= 1", self.dim, "codes need a dimension")
        check(
            self.distance in ("euclidean", "cosine"),
            'distance "euclidean" or "cosine"',
            self.distance,
            "name one of the two",
        )
        check(
            0.0 <= self.semantic_weight <= 1.0,
            "semantic_weight in [0, 1]",
            self.semantic_weight,
            "it is a part of the whole target",
        )
        if self.fsq:
            self._check_fsq()

    def _check_fsq(self) -> None:
        check(min(self.fsq) >= 2, "fsq of 2 entries or more per dimension", self.fsq, "e.g. (8, 8, 4)")
        check(
            math.prod(self.fsq) == self.codebook_size,
            f"fsq whose product is codebook_size {self.codebook_size}",
            self.fsq,
            f"set codebook_size to {math.prod(self.fsq)}, or choose other entries",
        )
        check(
            len(self.fsq) == self.dim, f"as many fsq entries as dim {self.dim}", self.fsq, f"set dim to {len(self.fsq)}"
        )
        check(self.distance == "euclidean", 'distance "euclidean" for fsq', self.distance, "a grid has no unit norm")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerConfig:
    """The levels, coarse to fine, and how they build on each other."""

    levels: tuple[LevelConfig, ...]
    """Level 0 is the coarsest; each stride divides the one before it (equal strides make a residual stage)."""
    composition: Composition = "residual"
    """"residual": a level encodes what the coarser ones leave of pixels and semantics, and reads their codes; results add
    up over levels. "bottom_up" (the paper): a level also reads the finer level's codes, pooled, and stands for the whole
    image. "none": levels read nothing of each other, and each stands for the whole image."""
    detail_levels: int = 0
    """How many of the finest levels are left out of a pyramid unless asked for: by `levels=`, or by a budget that opens them
    where they pay. They hold pixels alone: trunk and text embeddings of an image end at the level before them."""

    image_codebooks: tuple[int, ...] = ()
    """Entries of the codebook of each image token, 2 or more each: residual codes of the backbone's image embedding, which say
    what the image as a whole shows. () for none; then the levels' codes alone tell an image's embedding."""

    @property
    def base_levels(self) -> int:
        """The levels of a pyramid that is not asked for more."""
        return len(self.levels) - self.detail_levels

    def __post_init__(self) -> None:
        check(len(self.levels) >= 1, "at least one level", self.levels, "add a LevelConfig")
        kinds = sorted({type(level).__name__ for level in self.levels if not isinstance(level, LevelConfig)})
        check(not kinds, "every level as a LevelConfig", ", ".join(kinds), "write LevelConfig(stride=8, ...)")
        check(
            isinstance(self.composition, str) and self.composition in typing.get_args(Composition),
            f"composition in {typing.get_args(Composition)}",
            self.composition,
            "name one of them",
        )
        strides = [level.stride for level in self.levels]
        for coarse, fine in itertools.pairwise(strides):
            check(
                coarse % fine == 0,
                "strides from coarse to fine, each a multiple of the next",
                strides,
                "e.g. 32, 16, 8",
            )
        self._check_detail_levels()
        sizes = self.image_codebooks
        whole = isinstance(sizes, tuple) and all(type(size) is int and size >= 2 for size in sizes)
        check(whole and len(sizes) <= 255, "image_codebooks of 2 entries or more", sizes, "write e.g. (256, 256, 256)")

    def _check_detail_levels(self) -> None:
        count, most = self.detail_levels, len(self.levels) - 1
        whole = isinstance(count, int) and not isinstance(count, bool)
        check(whole and 0 <= count <= most, f"detail_levels from 0 to {most}", count, "leave a level that is no detail")
        check(
            not count or self.composition == "residual",
            'composition "residual" for detail levels',
            self.composition,
            "other compositions have no level that adds to the coarser ones",
        )
        detailed = [level for level in self.levels[self.base_levels :] if level.reads_dense or level.semantic_weight]
        check(
            not detailed,
            "detail levels of pixels alone",
            detailed,
            "set semantic_weight=0 and reads_dense=False, or keep the level in every pyramid",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """Width and depth of the shared top-down trunk and of the pixel decoder; `preset_decoder` has the recipe's."""

    widths: tuple[int, ...]
    """Channels of the fused map per level, coarse to fine."""
    depths: tuple[int, ...]
    """Residual blocks per level of the trunk."""
    pixel_widths: tuple[int, ...] = ()
    """Channels of the pixel decoder's stages, each of which doubles the resolution before the last step to pixels; () goes
    from the finest fused map to pixels in one step."""
    pixel_depth: int = 2
    """Residual blocks per stage of the pixel decoder."""

    def __post_init__(self) -> None:
        check(
            len(self.widths) == len(self.depths),
            "as many depths as widths",
            (self.widths, self.depths),
            "give one of each per level",
        )
        check(
            all(w >= 1 for w in (*self.widths, *self.pixel_widths)),
            "widths of 1 or more",
            (self.widths, self.pixel_widths),
            "give the number of channels",
        )
        check(
            all(d >= 0 for d in (*self.depths, self.pixel_depth)),
            "depths of 0 or more",
            (self.depths, self.pixel_depth),
            "give the number of residual blocks",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationConfig:
    """The segmentation head beside a tokenizer."""

    width: int = 128
    """Channels inside the head."""
    depth: int = 2
    """Residual blocks of the head."""
    shared_decoder: bool = True
    """Whether the head reads the tokenizer's own trunk; False gives it one of its own, of the same shape."""

    def __post_init__(self) -> None:
        check(self.width >= 1, "segmentation.width >= 1", self.width, "give the number of channels")
        check(self.depth >= 0, "segmentation.depth >= 0", self.depth, "give the number of residual blocks")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """Everything that `from_config` needs to build a `PyramidTokenizer`."""

    backbone: BackboneConfig
    """The frozen backbone."""
    quantizer: QuantizerConfig
    """Levels and codebooks."""
    decoder: DecoderConfig
    """Trunk and pixel decoder; one width per level."""
    segmentation: SegmentationConfig | None = None
    """The segmentation head that lies beside the tokenizer; None where there is none."""
    fingerprint: str = ""
    """SHA-256 of what determines ids, checked at loading; "" before the first save."""
    format_version: int = FORMAT_VERSION
    """Version of the files' layout."""

    def __post_init__(self) -> None:
        check_format(self.format_version)
        levels, widths = self.quantizer.base_levels, len(self.decoder.widths)
        check(
            levels == widths,
            f"{levels} decoder widths, one per level that is no detail",
            widths,
            "match decoder.widths to quantizer.levels",
        )

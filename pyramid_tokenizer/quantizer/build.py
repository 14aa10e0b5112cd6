"""From a `QuantizerConfig` to modules: the one place where the quantizer's config is read."""

from __future__ import annotations

from collections.abc import Sequence

from pyramid_tokenizer.config.models import LevelConfig, QuantizerConfig
from pyramid_tokenizer.quantizer.codebooks import CodebookKind, Learned, ScalarGrid
from pyramid_tokenizer.quantizer.compositions import COMPOSITIONS
from pyramid_tokenizer.quantizer.level import LevelQuantizer
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.quantizer.regrid import BackboneInput


def build_quantizer(
    config: QuantizerConfig, *, channels: Sequence[int], strides: Sequence[int], embedding_dim: int
) -> PyramidQuantizer:
    """The quantizer that a config describes, with empty codebooks.

    Args:
        config: Levels coarse to fine and their composition.
        channels: Channels of the backbone's maps, coarse to fine.
        strides: Strides of the backbone's maps.
        embedding_dim: D, dimensions of the space that images and words share.

    Raises:
        ConfigError: A level reads a map that the backbone does not have, or whose stride does not fit its own.

    Example:
        >>> level = LevelConfig(stride=8, maps=(2, 3), codebook_size=64, dim=4)
        >>> quantizer = build_quantizer(
        ...     QuantizerConfig(levels=(level,)), channels=(32, 24, 16, 8), strides=(32, 16, 8, 4), embedding_dim=16
        ... )
        >>> quantizer.strides, quantizer.codebook_sizes, quantizer.level(0).adapter
        ((8,), (64,), Linear(in_features=48, out_features=4, bias=True))
    """
    composition = COMPOSITIONS[config.composition]
    dims, finest = [level.dim for level in config.levels], config.levels[config.base_levels - 1].stride
    reads, levels = [], []
    for index, level in enumerate(config.levels):
        read = BackboneInput(stride=level.stride, maps=level.maps, reads_dense=level.reads_dense)
        patch_px = min(level.stride, finest)
        context = composition.context_channels(index, dims=dims, patch_px=patch_px)
        reads.append(read)
        levels.append(
            LevelQuantizer(
                in_channels=read.channels(channels, strides, embedding_dim) + context,
                codebook_size=level.codebook_size,
                dim=level.dim,
                patch_px=patch_px,
                embedding_dim=embedding_dim,
                kind=codebook_kind(level),
                semantic_weight=level.semantic_weight,
                unit_text_embeddings=composition.unit_text_embeddings,
            )
        )
    sizes = {"base_levels": config.base_levels, "image_codebook_sizes": config.image_codebooks}
    return PyramidQuantizer(levels, reads=reads, composition=composition, **sizes)


def codebook_kind(level: LevelConfig) -> CodebookKind:
    """The kind of codebook that a level's `fsq` and `distance` ask for."""
    return ScalarGrid(level.fsq) if level.fsq else Learned(unit_norm=level.distance == "cosine")

"""Tokenizers with other levels on the same backbone, fitted without gradients on the same crops, without a trained decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.config.models import TokenizerConfig
from pyramid_tokenizer.images import RandomCrops, find_images

FIT_IMAGES = 2000
BATCH = 25
CROP_PX = 128
VECTORS_PER_CODE = 16


def with_levels(config: TokenizerConfig, changes: Sequence[dict[str, Any]]) -> TokenizerConfig:
    """The config with some fields of each level changed, coarse to fine."""
    levels = tuple(dataclasses.replace(a, **b) for a, b in zip(config.quantizer.levels, changes, strict=True))
    quantizer = dataclasses.replace(config.quantizer, levels=levels)
    return dataclasses.replace(config, quantizer=quantizer, fingerprint="")


def without_detail(config: TokenizerConfig) -> TokenizerConfig:
    """The levels that are no detail levels: those that a prefix of a twin can be compared by, in any composition."""
    quantizer = config.quantizer
    base = dataclasses.replace(quantizer, levels=quantizer.levels[: quantizer.base_levels], detail_levels=0)
    return dataclasses.replace(config, quantizer=base, fingerprint="")


def last_layer(config: TokenizerConfig) -> TokenizerConfig:
    """The same levels, codes and bits, each level reading only the backbone's coarsest, deepest map."""
    return with_levels(config, [{"maps": (0,)} for _ in config.quantizer.levels])


def fitted(tok: PyramidTokenizer, config: TokenizerConfig, train: Path) -> PyramidTokenizer:
    """A tokenizer of that config on the backbone of `tok`; its untrained decoder shows the linear reconstruction."""
    crops = RandomCrops(find_images(train), batch_size=BATCH, crop_px=CROP_PX)

    def batches() -> Iterator[Tensor]:
        return (crops[step] for step in range(FIT_IMAGES // BATCH))

    twin = PyramidTokenizer.from_config(dataclasses.replace(config, fingerprint=""), backbone=tok.backbone)
    twin.fit(batches, vectors_per_code=VECTORS_PER_CODE)
    return twin

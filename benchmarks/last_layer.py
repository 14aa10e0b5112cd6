"""What reading several depths of the tower is worth: the same levels fitted on its last layer alone, with the same bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.config import TokenizerConfig
from pyramid_tokenizer.data import RandomCrops, find_images

FIT_IMAGES = 2000
BATCH = 25
CROP_PX = 128
VECTORS_PER_CODE = 16


def last_layer_config(config: TokenizerConfig) -> TokenizerConfig:
    """The same levels, codes and bits, each level reading only the tower's coarsest, deepest map."""
    levels = tuple(dataclasses.replace(level, maps=(0,)) for level in config.quantizer.levels)
    return dataclasses.replace(
        config, quantizer=dataclasses.replace(config.quantizer, levels=levels), fingerprint=""
    )


def fitted_twin(tok: PyramidTokenizer, config: TokenizerConfig, train: Path) -> PyramidTokenizer:
    """A tokenizer on the same tower, its codebooks fitted in closed form, its decoder untrained: it shows the sketch."""
    crops = RandomCrops(find_images(train), batch_size=BATCH, crop_px=CROP_PX)

    def batches() -> Iterator[Tensor]:
        return (crops[step] for step in range(FIT_IMAGES // BATCH))

    twin = PyramidTokenizer.from_config(dataclasses.replace(config, fingerprint=""), backbone=tok.backbone)
    twin.fit(batches, vectors_per_code=VECTORS_PER_CODE)
    return twin

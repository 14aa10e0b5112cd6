"""Photos on disk and a tiny run, for the tests of training."""

from __future__ import annotations

import pytest
import torch

from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training import TrainConfig


@pytest.fixture(scope="session")
def photos(tmp_path_factory, smooth):
    """Twelve images, just larger than a crop."""
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(to_pil(smooth(12, 48, 40, seed=4))):
        image.save(folder / f"{i:02}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def make_unfitted():
    """make_unfitted() -> two levels on the toy backbone, codebooks empty."""
    levels = (
        LevelConfig(stride=16, maps=(1,), codebook_size=8, dim=4, distance="cosine", semantic_weight=0.5),
        LevelConfig(stride=8, maps=(2, 3), codebook_size=16, dim=4),
    )
    config = TokenizerConfig(
        backbone=BackboneConfig(kind="toy"),
        quantizer=QuantizerConfig(levels=levels),
        decoder=DecoderConfig(widths=(8, 8), depths=(1, 1), pixel_widths=(8,), pixel_depth=1),
    )

    def make():
        torch.default_generator.manual_seed(0)
        return PyramidTokenizer.from_config(config)

    return make


@pytest.fixture
def unfitted(make_unfitted):
    return make_unfitted()


@pytest.fixture(scope="session")
def make_settings():
    """make_settings(**changes) -> a run of a few steps."""

    def make(**changes):
        few = {
            "codebook_steps": 4,
            "decoder_steps": 4,
            "batch_size": 4,
            "crop_px": 32,
            "warmup_steps": 1,
            "fit_images": 12,
        }
        return TrainConfig(**few | {"log_every": 1, "save_every": 2, "ema_decay": 0.5} | changes)

    return make


@pytest.fixture
def settings(make_settings):
    return make_settings

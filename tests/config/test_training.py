import dataclasses
import math

import pytest

from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.training import TrainConfig


def test_defaults_are_allowed_and_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 3
    assert TrainConfig(codebook_steps=0, decoder_steps=0, warmup_steps=0, level_dropout=0, ema_decay=0.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *((n, 0, f"expected {n} >= 1, got 0") for n in ("batch_size", "crop_px", "fit_images", "vectors_per_code")),
        *((n, 0, f"expected {n} >= 1, got 0") for n in ("log_every", "save_every")),
        *((n, -1, f"expected {n} >= 0, got -1") for n in ("codebook_steps", "decoder_steps", "warmup_steps")),
        *((n, -1, f"expected {n} >= 0, got -1") for n in ("workers", "seed")),
        *((n, v, rf"expected {n} in \[0, 1\)") for n in ("ema_decay", "level_dropout") for v in (-0.1, 1.0, math.nan)),
        *((n, v, f"expected {n} > 0") for n in ("codebook_lr", "decoder_lr", "clip_norm") for v in (0, -1, math.nan)),
        *((n, -0.5, f"expected {n} >= 0") for n in ("weight_decay", "commit_weight", "align_weight")),
        ("decoder_lr", math.inf, "expected decoder_lr > 0, got inf"),
        ("pixel_loss", "huber", "expected pixel_loss in .*'psnr'.*, got 'huber': name one of them"),
        ("mixed_precision", "fp16", "expected mixed_precision in .*, got 'fp16'"),
    ],
)
def test_a_value_out_of_its_range_is_an_error(name, value, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**{name: value})

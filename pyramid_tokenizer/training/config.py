"""Settings of a training run: data only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pyramid_tokenizer.errors import ConfigError

PixelLoss = Literal["l1", "l2", "psnr"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How long, on what crops, and with which losses the stages train.

    Raises:
        ConfigError: A value out of its range.

    Example:
        >>> TrainConfig(decoder_steps=500).pixel_loss
        'psnr'
    """

    fit_images: int = 4000
    """Images of the closed-form fit, at most."""
    vectors_per_code: int = 64
    """Cells sampled per codebook entry in the closed-form fit."""
    codebook_steps: int = 0
    """Steps of stage 1, gradient refinement of adapters and codebooks; 0 keeps the closed-form fit."""
    decoder_steps: int = 2000
    """Steps of stage 2, trunk and pixel decoder on frozen ids."""
    batch_size: int = 32
    """Crops per step and process."""
    crop_px: int = 128
    """Side of a crop; a multiple of the coarsest stride."""
    codebook_lr: float = 3e-4
    """Peak learning rate of stage 1."""
    decoder_lr: float = 7e-4
    """Peak learning rate of stage 2. At 2e-3 the bundled model's decoder lost its correction for good in 200 steps."""
    warmup_steps: int = 200
    """Linear rise to the peak; a cosine to zero follows."""
    weight_decay: float = 0.01
    """AdamW's, on matrices and kernels."""
    clip_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    ema_decay: float = 0.998
    """Of the averaged decoder weights, which are the ones kept."""
    level_dropout: float = 0.3
    """Share of steps that decode a shorter prefix, drawn evenly."""
    pixel_loss: PixelLoss = "psnr"
    """"l1", "l2", or "psnr": the mean of log squared errors per image, which is mean PSNR's own loss."""
    commit_weight: float = 0.25
    """Stage 1: pull of projections to their codes."""
    align_weight: float = 0.1
    """Stage 1: one less the cosine between a code's text address and the tower's dense map."""
    seed: int = 0
    """With a step's number, the only source of chance."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Accelerate's; the quantizer stays float32."""
    workers: int = 0
    """Processes that load images; 0 loads in the training process."""
    log_every: int = 50
    """Steps between two lines of the log."""
    save_every: int = 500
    """Steps between two states that a run can resume from."""

    def __post_init__(self) -> None:
        for name, choices in (("pixel_loss", get_args(PixelLoss)), ("mixed_precision", ("no", "bf16"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"expected {name} in {choices}, got {getattr(self, name)!r}: name one of them")
        for name in ("codebook_lr", "decoder_lr", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"expected {name} > 0, got {getattr(self, name)}: give a positive number")
        for name in ("weight_decay", "commit_weight", "align_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"expected {name} >= 0, got {getattr(self, name)}: 0 switches it off")
        for name in ("batch_size", "crop_px", "fit_images", "vectors_per_code", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} >= 1, got {getattr(self, name)}: give a positive number")
        for name in ("codebook_steps", "decoder_steps", "warmup_steps", "workers", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"expected {name} >= 0, got {getattr(self, name)}: give 0 or more")
        for name in ("ema_decay", "level_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"expected {name} in [0, 1), got {getattr(self, name)}: it is a share")

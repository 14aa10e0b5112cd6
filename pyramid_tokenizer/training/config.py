"""Settings of a training run: data only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pyramid_tokenizer.errors import ConfigError

PixelLoss = Literal["l1", "l2", "psnr"]
Codebooks = Literal["fit", "refit", "continue", "frozen"]
Perceptual = Literal["none", "backbone", "lpips"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How long, on what crops, and with which losses the stages train.

    Raises:
        ConfigError: A value out of its range.

    Example:
        >>> TrainConfig(decoder_steps=500).pixel_loss
        'psnr'
    """

    codebooks: Codebooks = "fit"
    """Where they start. "fit": empty ones are fitted without gradients. The others are for a fitted tokenizer: "refit" runs
    k-means anew in the adapters' coordinates, which a trained decoder still understands; "continue" refines adapters and
    codebooks by `codebook_steps`; "frozen" keeps every id, so that stored tokens stay valid."""
    fit_images: int = 4000
    """Crops of the gradient-free fit, at most; of few images, eight each."""
    vectors_per_code: int = 64
    """Cells sampled per codebook entry in the gradient-free fit."""
    codebook_steps: int = 0
    """Steps of stage 1, gradient refinement of adapters and codebooks, which ends with a refit; 0 leaves it out."""
    decoder_steps: int = 2000
    """Steps of stage 2, trunk and pixel decoder on frozen ids."""
    head_steps: int = 1500
    """Steps of stage 3, the segmentation head; `train` and `finetune` have none."""
    batch_size: int = 32
    """Crops per pass and process."""
    accumulate: int = 1
    """Passes whose gradients make one step: `batch_size` x processes x `accumulate` crops."""
    crop_px: int = 128
    """Side of a crop; a multiple of the coarsest stride."""
    codebook_lr: float = 3e-4
    """Peak learning rate of stage 1."""
    decoder_lr: float = 7e-4
    """Peak learning rate of stage 2. At 2e-3 the bundled model's decoder lost its correction for good in 200 steps."""
    head_lr: float = 1e-3
    """Peak learning rate of stage 3."""
    decoupled: bool = True
    """Stage 3 leaves trunk and pixel decoder as they are; False trains them jointly with the head, for masks and pixels."""
    class_balance: float = 0.5
    """Stage 3: a pixel counts by the share of its class among the labelled pixels of its set, to minus this power; 0 counts all
    alike, and rare classes are then hardly ever predicted."""
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
    perceptual: Perceptual = "none"
    """Further term of the decoder's loss: "backbone" compares the frozen backbone's finest maps, "lpips" needs the extra of
    that name."""
    perceptual_weight: float = 1.0
    """Of that term, against the pixel loss."""
    commit_weight: float = 0.25
    """Stage 1: pull of projections to their codes."""
    align_weight: float = 0.1
    """Stage 1: one less the cosine between a code's text address and the backbone's dense map."""
    seed: int = 0
    """With a step's number, the only source of chance."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Accelerate's; the quantizer stays float32."""
    workers: int = 0
    """Processes that load images; 0 loads in the training process."""
    log_every: int = 50
    """Steps between two lines of the log."""
    save_every: int = 500
    """Steps between two states that a run can resume from; Ctrl-C and SIGTERM save one too."""
    sheet_every: int = 0
    """Steps between two reconstruction sheets in the model's folder; 0 for none."""
    tensorboard: bool = False
    """Also write the log for TensorBoard, in the model's folder."""

    def __post_init__(self) -> None:
        choices = {"pixel_loss": PixelLoss, "codebooks": Codebooks, "perceptual": Perceptual}
        names = {name: get_args(choice) for name, choice in choices.items()} | {"mixed_precision": ("no", "bf16")}
        for name, known in names.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"expected {name} in {known}, got {getattr(self, name)!r}: name one of them")
        for name in ("codebook_lr", "decoder_lr", "head_lr", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"expected {name} > 0, got {getattr(self, name)}: give a positive number")
        for name in ("weight_decay", "commit_weight", "align_weight", "perceptual_weight", "class_balance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"expected {name} >= 0, got {getattr(self, name)}: 0 switches it off")
        sizes = ("batch_size", "accumulate", "crop_px", "fit_images", "vectors_per_code")
        for name in (*sizes, "head_steps", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} >= 1, got {getattr(self, name)}: give a positive number")
        for name in ("codebook_steps", "decoder_steps", "warmup_steps", "workers", "seed", "sheet_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"expected {name} >= 0, got {getattr(self, name)}: give 0 or more")
        for name in ("ema_decay", "level_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"expected {name} in [0, 1), got {getattr(self, name)}: it is a share")
        self._check_codebook_steps()

    def _check_codebook_steps(self) -> None:
        if self.codebooks == "frozen" and self.codebook_steps:
            raise ConfigError(
                f'expected codebook_steps 0 with codebooks "frozen", got {self.codebook_steps}: use "continue" to move them'
            )
        if self.codebooks == "continue" and not self.codebook_steps:
            raise ConfigError(
                'expected codebook_steps >= 1 with codebooks "continue", got 0: say how long, or use "frozen"'
            )

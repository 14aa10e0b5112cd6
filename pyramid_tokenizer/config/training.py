"""Settings of a training run: data only. The command line takes its defaults from here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pyramid_tokenizer.errors import ConfigError

PixelLoss = Literal["l1", "l2", "psnr"]
Codebooks = Literal["fit", "refit", "continue", "frozen"]
Perceptual = Literal["none", "backbone", "lpips"]
Precision = Literal["no", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How long, on which crops and with which losses a tokenizer is trained.

    Stage 1 refines adapters and codebooks by gradients, stage 2 trains the trunk and the pixel decoder on frozen ids, stage 3
    the segmentation head.

    Raises:
        ConfigError: A value is out of its range.

    Example:
        >>> TrainConfig(decoder_steps=500).pixel_loss
        'psnr'
    """

    codebooks: Codebooks = "fit"
    """How the codebooks begin. "fit": empty ones are fitted without gradients, fitted ones stay. "refit": k-means runs anew
    in the coordinates of the present adapters, which a trained decoder still understands. "continue": stage 1 refines
    adapters and codebooks for `codebook_steps`. "frozen": every id stays the same, so that stored tokens stay valid. All but
    "fit" need a fitted tokenizer."""
    fit_images: int = 4800
    """Largest number of crops for the gradient-free fit. Of few images, eight crops each are drawn, or so many more that each
    code has two cells."""
    vectors_per_code: int = 64
    """Cells sampled per codebook entry in the gradient-free fit."""
    codebook_steps: int = 0
    """Steps of stage 1, which ends with a refit; 0 leaves it out."""
    decoder_steps: int = 2000
    """Steps of stage 2; 0 leaves it out."""
    head_steps: int = 1500
    """Steps of stage 3; `train` and `finetune` do not have this stage."""
    batch_size: int = 32
    """Crops per pass and process."""
    accumulate: int = 1
    """Passes whose gradients make one step of `batch_size` x processes x `accumulate` crops."""
    crop_px: int = 128
    """Side of a crop in pixels, a multiple of the coarsest stride."""
    codebook_lr: float = 3e-4
    """Peak learning rate of stage 1."""
    decoder_lr: float = 7e-4
    """Peak learning rate of stage 2. At 2e-3 the bundled model's decoder lost its correction for good within 200 steps."""
    head_lr: float = 1e-3
    """Peak learning rate of stage 3."""
    decoupled: bool = True
    """True: stage 3 trains the head alone. False: it trains the shared trunk and the pixel decoder with it, for masks and
    pixels at once."""
    class_balance: float = 0.5
    """In stage 3 a pixel is weighted by how frequent its class is among the labelled pixels of its set, to the power of minus
    this number. At 0 all pixels count alike, and rare classes are then hardly ever predicted."""
    warmup_steps: int = 200
    """Steps in which the learning rate rises linearly to its peak; it then falls to zero as a cosine."""
    weight_decay: float = 0.01
    """Weight decay of AdamW, on matrices and convolution kernels only."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; longer ones are scaled down to it."""
    ema_decay: float = 0.998
    """Decay of the moving average of the trained weights, in [0, 1); the averaged weights are the ones that are kept."""
    level_dropout: float = 0.2
    """Fraction of steps of stage 2 that decode a prefix of the levels, in [0, 1); its length is drawn evenly."""
    thinning: float = 0.4
    """Fraction of steps of stage 2, and of segmentation, that read sparse pyramids, in [0, 1): with a share of their splits that
    is drawn for the step, in half of these steps those that save the most error, in the other half random ones."""
    consistency: float = 0.0
    """In stage 3 the scores of a sparse pyramid also learn to be those that the head gives for the full one: the weight of their
    divergence beside the loss of the labels. At 0 sparse pyramids learn from labels alone. docs/tokens-by-content.md has what a
    weight of 4 did to the head of `tiny`."""
    pixel_loss: PixelLoss = "psnr"
    """"l1": mean absolute error. "l2": mean squared error. "psnr": the mean over images of the log squared error, whose
    gradient is that of mean PSNR."""
    perceptual: Perceptual = "none"
    """A further term of the loss of stage 2. "backbone" compares the finest maps of the frozen backbone, "lpips" is the
    learned metric of that name, an optional dependency."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual term beside the pixel loss."""
    commit_weight: float = 0.25
    """Stage 1: weight of the squared distance between projected features and their codes."""
    align_weight: float = 0.1
    """Stage 1: weight of one minus the cosine between a code's text embedding and the backbone's dense features."""
    seed: int = 0
    """With a step's number, the only source of chance."""
    mixed_precision: Precision = "no"
    """"bf16" trains in bfloat16 where that is safe; the quantizer stays in float32."""
    workers: int = 0
    """Processes that load images; at 0 the training process loads them itself."""
    log_every: int = 50
    """Steps between two lines of the log."""
    save_every: int = 500
    """Steps between two saved states that a run can resume from; Ctrl-C and SIGTERM save one too."""
    sheet_every: int = 0
    """Steps between two sheets of reconstructions in the model's folder; 0 for none."""
    tensorboard: bool = False
    """Whether the log is also written for TensorBoard, in the model's folder."""

    def __post_init__(self) -> None:
        choices = {
            "pixel_loss": PixelLoss,
            "codebooks": Codebooks,
            "perceptual": Perceptual,
            "mixed_precision": Precision,
        }
        for name, choice in choices.items():
            if getattr(self, name) not in get_args(choice):
                raise ConfigError(
                    f"expected {name} in {get_args(choice)}, got {getattr(self, name)!r}: name one of them"
                )
        for name in ("codebook_lr", "decoder_lr", "head_lr", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"expected {name} > 0, got {getattr(self, name)}: give a positive number")
        weights = ("commit_weight", "align_weight", "perceptual_weight", "consistency")
        for name in ("weight_decay", "class_balance", *weights):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"expected {name} >= 0, got {getattr(self, name)}: 0 switches it off")
        sizes = ("batch_size", "accumulate", "crop_px", "fit_images", "vectors_per_code")
        for name in (*sizes, "head_steps", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} >= 1, got {getattr(self, name)}: give a positive number")
        for name in ("codebook_steps", "decoder_steps", "warmup_steps", "workers", "seed", "sheet_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"expected {name} >= 0, got {getattr(self, name)}: give 0 or more")
        self._check_fractions()
        self._check_codebook_steps()

    def _check_fractions(self) -> None:
        for name in ("ema_decay", "level_dropout", "thinning"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"expected {name} in [0, 1), got {getattr(self, name)}: give a fraction below 1")
        if self.level_dropout + self.thinning > 1:
            got = f"{self.level_dropout} and {self.thinning}"
            raise ConfigError(
                f"expected level_dropout and thinning of 1 at most together, got {got}: lower one of them"
            )

    def _check_codebook_steps(self) -> None:
        if self.codebooks == "frozen" and self.codebook_steps:
            raise ConfigError(
                f'expected codebook_steps 0 with codebooks "frozen", got {self.codebook_steps}: use "continue" to move them'
            )
        if self.codebooks == "continue" and not self.codebook_steps:
            raise ConfigError(
                'expected codebook_steps >= 1 with codebooks "continue", got 0: say how long, or use "frozen"'
            )

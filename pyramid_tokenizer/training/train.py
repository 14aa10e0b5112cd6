"""`train` and `finetune`: the gradient-free fit, stage 1, stage 2, and saving; each of these parts can be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pyramid_tokenizer import hub
from pyramid_tokenizer.checks.arguments import check_kind
from pyramid_tokenizer.config.training import Codebooks, TrainConfig
from pyramid_tokenizer.errors import ConfigError, NotFittedError
from pyramid_tokenizer.images import ImageSource, RandomCrops, open_images
from pyramid_tokenizer.quantizer.fit.batches import Batches
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training import distributed
from pyramid_tokenizer.training.fit_crops import fit_batches
from pyramid_tokenizer.training.loop import run_stage
from pyramid_tokenizer.training.process import accelerated
from pyramid_tokenizer.training.reports import FitLog, Log, tensorboard_log, write_sheet
from pyramid_tokenizer.training.resume import STATE_SUFFIX, once, same_settings
from pyramid_tokenizer.training.stages import CodebookStage, DecoderStage

SKIP_LOG = "skipped.tsv"
"""File in the model's folder with name and reason of every image that could not be used."""
SHEET_IMAGES = 6
"""Images on a sheet of reconstructions."""
CONTINUE_STEPS = 500
"""Steps of stage 1 in `finetune(codebooks="continue")` where the config has none."""
_CONFIG_FIX = "write TrainConfig(decoder_steps=2000), or other fields of it"


def print_log(figures: dict[str, Any]) -> None:
    """Prints one line: stage, step, then name and value of each figure.

    Args:
        figures: As a `Log` is called.

    Example:
        >>> print_log({"stage": "decoder", "step": 50, "steps": 2000, "loss": -4.5678, "psnr": 22.75})
        decoder 50/2000 loss -4.568 psnr 22.75
    """
    rest = " ".join(f"{k} {v:.4g}" for k, v in figures.items() if k not in ("stage", "step", "steps"))
    print(f"{figures['stage']} {figures['step']}/{figures['steps']} {rest}", flush=True)  # noqa: T201


def train(
    tok: PyramidTokenizer,
    images: Any,
    *,
    config: TrainConfig,
    out: str | Path | None = None,
    half: bool = False,
    log: Log = print_log,
) -> PyramidTokenizer:
    """Trains a tokenizer's codebooks and decoder on images and saves it to `out`; the same call resumes.

    Ctrl-C and SIGTERM end a run after the current step, with its state saved. A segmentation head that the tokenizer was
    loaded with is kept where it still fits; where training changes what it reads, a warning says so and it is left out.

    Args:
        tok: A tokenizer of `from_config` or `from_backbone`, whose empty codebooks are fitted first, or a trained one; it is
            changed in place.
        images: What `open_images` takes: a folder, a list of files or images, tar shards, Parquet files, or a data set.
        config: Steps, crops and losses.
        out: Directory of the model; `out/.training` holds what a resumed run needs. None keeps the result in memory only.
        half: Whether the decoder is stored in float16.
        log: Called with the figures of a step; a `reports.FitLog` is also told how far the fit of the codebooks is.

    Returns:
        `tok`, trained, on the accelerator's device.

    Raises:
        DataError: There are no images, or none that can be read.
        TooFewCellsError: The images have fewer different cells than the codebooks have entries.
        ConfigError: The crop is no multiple of the coarsest stride, `config.fit_images` crops have fewer cells than the
            codebooks have entries, the tokenizer was cast to another dtype, sheets or
            TensorBoard are asked for without `out`, or the caller's own Accelerator has another precision.
        NotFittedError: The codebooks are empty and `config.codebooks` is not "fit".
        CheckpointError: The state in `out` belongs to other settings, is damaged, or cannot be written.
        PyramidTokenizerError: The loss is not finite.

    Example:
        >>> from pyramid_tokenizer.config import LevelConfig
        >>> from pyramid_tokenizer.training import TrainConfig, train
        >>> level = LevelConfig(stride=8, maps=(2, 3), codebook_size=16, dim=4)
        >>> tok = PyramidTokenizer.from_backbone("toy", levels=[level])
        >>> photos = [torch.rand(3, 64, 64) for _ in range(4)]
        >>> few = TrainConfig(decoder_steps=2, batch_size=2, crop_px=32, log_every=2)
        >>> tok = train(tok, photos, config=few)
        fit 1/1 ...
        decoder 2/2 images_per_second ... loss ... psnr ...
    """
    _check(tok, config, out)
    source = open_images(images)
    _leave_lost_head(tok, config)
    with accelerated(config) as accelerator, training_folder(out) as folder:
        tok.to(accelerator.device)
        run = _Run(tok, source, config, accelerator, folder, out if out is None else Path(out), log)
        with same_settings(folder / "settings.json", tok, len(source), config):
            once(folder / "fitted.safetensors", tok, run.start_codebooks)
        once(folder / "codebooks.safetensors", tok, run.refine_codebooks)
        once(folder / "decoder.safetensors", tok, run.train_decoder)
        accelerator.wait_for_everyone()
        if out is not None and accelerator.is_main_process:
            tok.save_pretrained(out, half=half)
    return tok


def finetune(
    tok: PyramidTokenizer,
    images: Any,
    *,
    steps: int = 2000,
    codebooks: Codebooks = "refit",
    out: str | Path | None = None,
    config: TrainConfig | None = None,
    half: bool = False,
    log: Log = print_log,
) -> PyramidTokenizer:
    """Trains a fitted tokenizer further, on images of one's own.

    Args:
        tok: A trained tokenizer; it is changed in place.
        images: What `open_images` takes.
        steps: Training steps of the decoder.
        codebooks: "refit" runs k-means on these images, which takes minutes, in the coordinates that the decoder knows; of
            few images so many overlapping crops are drawn that each code has two cells, which a warning tells.
            "continue" refines adapters and codebooks by gradients first. "frozen" keeps every id, so that stored tokens stay
            valid.
        out: Directory of the new model, where the same call resumes; None keeps it in memory only.
        config: All other settings; its `codebooks` and `decoder_steps` are replaced by the arguments above.
        half: Whether the decoder is stored in float16.
        log: Called with the figures of a step; a `reports.FitLog` is also told how far the fit of the codebooks is.

    Returns:
        `tok`, trained, on the accelerator's device.

    Raises:
        NotFittedError: The codebooks are empty; `train` fits them.
        ConfigError: `codebooks` is "fit", or as for `train`.

    Example:
        >>> from pyramid_tokenizer.config import LevelConfig
        >>> from pyramid_tokenizer.training import TrainConfig, finetune
        >>> level = LevelConfig(stride=8, maps=(2, 3), codebook_size=16, dim=4)
        >>> tok = PyramidTokenizer.from_backbone("toy", levels=[level])
        >>> photos = [torch.rand(3, 64, 64) for _ in range(4)]
        >>> _ = tok.fit(photos, num_crops=16, crop_px=32)
        >>> before = tok.fingerprint
        >>> few = TrainConfig(batch_size=2, crop_px=32)
        >>> tok = finetune(tok, photos, steps=1, codebooks="frozen", config=few)
        decoder 1/1 ...
        >>> tok.fingerprint == before
        True
    """
    if codebooks == "fit":
        raise ConfigError('expected codebooks "refit", "continue" or "frozen", got "fit": train() fits empty ones')
    config = TrainConfig() if config is None else config
    check_kind(config, TrainConfig, name="config", fix=_CONFIG_FIX)
    refining = config.codebook_steps or (CONTINUE_STEPS if codebooks == "continue" else 0)
    config = dataclasses.replace(config, codebooks=codebooks, codebook_steps=refining, decoder_steps=steps)
    return train(tok, images, config=config, out=out, half=half, log=log)


def _check(tok: PyramidTokenizer, config: TrainConfig, out: str | Path | None) -> None:
    check_trainable(tok, config)
    if out is None and (config.sheet_every or config.tensorboard):
        raise ConfigError("expected out= for sheets or TensorBoard, got None: say where the model goes")
    if config.codebooks != "fit" and not tok.quantizer.is_fitted:
        raise NotFittedError(f'expected fitted codebooks to {config.codebooks}, got empty ones: use codebooks="fit"')


def _leave_lost_head(tok: PyramidTokenizer, config: TrainConfig) -> None:
    """Warns where training will change what the model's segmentation head reads, and takes the head off."""
    if tok.kept_head is None:
        return
    new_codebooks = config.codebooks in ("refit", "continue") or config.codebook_steps > 0
    new_trunk = config.decoder_steps > 0 and tok.kept_head.head.config.shared_decoder
    if not (new_codebooks or new_trunk):
        return
    changed = "the codebooks" if new_codebooks else "the trunk that it shares with the decoder"
    hub.warn_of_lost_head(f"this training changes {changed}", stacklevel=4)
    tok.kept_head = None


def check_trainable(tok: PyramidTokenizer, config: TrainConfig) -> None:
    """Raises ConfigError for other objects, for crops that do not fit the strides, and for a tokenizer of another dtype."""
    load = 'load one by PyramidTokenizer.from_pretrained("tiny")'
    check_kind(tok, PyramidTokenizer, name="tok", fix=load)
    check_kind(config, TrainConfig, name="config", fix=_CONFIG_FIX)
    if config.crop_px % tok.multiple_px:
        raise ConfigError(
            f"expected crop_px in multiples of {tok.multiple_px}, got {config.crop_px}: "
            "choose a multiple of the coarsest stride"
        )
    if tok.dtype != torch.float32:
        raise ConfigError(f"expected a float32 tokenizer, got {tok.dtype}: set mixed_precision instead of casting it")


@contextlib.contextmanager
def training_folder(out: str | Path | None) -> Iterator[Path]:
    """The folder of what a run needs to be resumed: `out/.training`, or a temporary one where there is no `out`."""
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    folder = Path(out) / ".training"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


@dataclasses.dataclass(frozen=True)
class _Run:
    """The parts of one run, and what they share."""

    tok: PyramidTokenizer
    source: ImageSource
    config: TrainConfig
    accelerator: Accelerator
    folder: Path
    out: Path | None
    log: Log

    def start_codebooks(self) -> None:
        """Fits or refits the codebooks where the config asks for it."""
        if distributed.is_main():
            if not self.tok.quantizer.is_fitted:
                self._fit(self._fit_batches(refit=False), keep_adapters=False)
            elif self.config.codebooks == "refit":
                self._fit(self._fit_batches(refit=True), keep_adapters=True)
        self._share_codebooks()

    def refine_codebooks(self) -> None:
        """Stage 1, followed by k-means: the moving averages lag behind the adapters and leave codes unused."""
        if not self.config.codebook_steps:
            return
        count = self._fit_batches(refit=True)  # before the stage: it can refuse the config
        self._train(CodebookStage(self.tok, self.config), seed=self.config.seed + 1)
        if distributed.is_main():
            self._fit(count, keep_adapters=True)
        self._share_codebooks()

    def _share_codebooks(self) -> None:
        """Gives every process what the main process fitted."""
        distributed.broadcast(self.tok.own_tensors().values())
        self.tok.update_fingerprint()

    def train_decoder(self) -> None:
        """Stage 2."""
        if self.config.decoder_steps:
            self._train(DecoderStage(self.tok, self.config), seed=self.config.seed + 2)

    def _fit_batches(self, *, refit: bool) -> int:
        sizes, strides = self.tok.quantizer.codebook_sizes, self.tok.quantizer.strides
        levels = {"codebook_sizes": sizes, "strides": strides, "refit": refit}
        return fit_batches(self.config, num_images=len(self.source), **levels)

    def _fit(self, count: int, *, keep_adapters: bool) -> None:
        config = self.config
        per_step = self.accelerator.num_processes * config.accumulate
        crops = self._crops(seed=config.seed, accumulate=per_step)

        def batches() -> Iterator[Tensor]:
            return (crops[i] for i in range(count))

        options = {"vectors_per_code": config.vectors_per_code, "seed": config.seed, "keep_adapters": keep_adapters}
        progress = self.log.show_fit if isinstance(self.log, FitLog) else None
        reports = self.tok.fit(Batches(batches, count), progress=progress, **options)
        for report in reports:
            figures = dataclasses.asdict(report)
            place = {"stage": "refit" if keep_adapters else "fit", "step": figures.pop("level") + 1}
            self.log({**place, "steps": len(reports), **figures})

    def _train(self, stage: CodebookStage | DecoderStage, *, seed: int) -> None:
        config, rank = self.config, self.accelerator.process_index
        # stages draw different crops: another seed each
        crops = self._crops(
            seed=seed, accumulate=config.accumulate, rank=rank, world_size=self.accelerator.num_processes
        )
        for parameter in stage.trainable():
            parameter.requires_grad_(True)
        state = self.folder / f"{stage.name}{STATE_SUFFIX}"
        log, sheet = self._logs(), self._sheet if config.sheet_every else None
        try:
            run_stage(stage, crops, config, accelerator=self.accelerator, state_path=state, log=log, sheet=sheet)
        finally:
            self.tok.requires_grad_(False)
            self.tok.eval()
            self.tok.update_fingerprint()  # also after an interruption, in the middle of stage 1

    def _crops(
        self, *, seed: int, accumulate: int = 1, rank: int = 0, world_size: int = 1, batch_size: int | None = None
    ) -> RandomCrops:
        return RandomCrops(
            self.source,
            batch_size=batch_size or self.config.batch_size,
            crop_px=self.config.crop_px,
            seed=seed,
            rank=rank,
            world_size=world_size,
            accumulate=accumulate,
            skip_log=None if self.out is None else self.out / SKIP_LOG,
        )

    def _logs(self) -> Log:
        if self.out is None or not self.config.tensorboard or not self.accelerator.is_main_process:
            return self.log
        scalars = tensorboard_log(self.out / "tensorboard")

        def both(figures: dict[str, Any]) -> None:
            self.log(figures)
            scalars(figures)

        return both

    def _sheet(self, stage: str, step: int) -> None:
        assert self.out is not None
        crops = self._crops(seed=self.config.seed + 3, batch_size=SHEET_IMAGES)
        write_sheet(self.tok, crops[0], self.out / "sheets" / f"{stage}-{step:06d}.png")

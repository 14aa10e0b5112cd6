"""`train`: closed-form fit, stage 1, stage 2, save. Every stage resumes, and what it made is kept before the next begins."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from pyramid_tokenizer import distributed, hub
from pyramid_tokenizer.config import to_dict
from pyramid_tokenizer.data import RandomCrops
from pyramid_tokenizer.errors import CheckpointError, ConfigError
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training.config import TrainConfig
from pyramid_tokenizer.training.loop import run_stage
from pyramid_tokenizer.training.stages import CodebookStage, DecoderStage

STATE_SUFFIX = ".pt"
MACHINE_SETTINGS = ("workers", "log_every", "save_every")
"""What a resumed run may change: its results do not depend on it."""


def print_log(figures: dict[str, Any]) -> None:
    """One line a call: stage, step, then name and value of each figure.

    Example:
        >>> print_log({"stage": "decoder", "step": 50, "steps": 2000, "loss": -4.5678, "psnr": 22.75})
        decoder 50/2000 loss -4.568 psnr 22.75
    """
    rest = " ".join(f"{k} {v:.4g}" for k, v in figures.items() if k not in ("stage", "step", "steps"))
    print(f"{figures['stage']} {figures['step']}/{figures['steps']} {rest}", flush=True)  # noqa: T201


def train(
    tok: PyramidTokenizer,
    files: Sequence[Path],
    *,
    out: Path,
    config: TrainConfig,
    half: bool = False,
    log: Callable[[dict[str, Any]], None] = print_log,
) -> PyramidTokenizer:
    """Trains a tokenizer's codebooks and decoder on image files and saves it to `out`; the same call resumes.

    Args:
        tok: Built by `from_config` (codebooks empty: they are fitted first) or trained already; changed in place.
        files: Image files.
        out: Directory of the model; `out/.training` holds what a resumed run needs.
        config: Lengths, crops, losses.
        half: Store the decoder as float16.
        log: Takes the figures of a step.

    Returns:
        `tok`, trained, on the accelerator's device.

    Raises:
        DataError: No images, too few for the codebooks, or no readable ones.
        ConfigError: The crop is no multiple of the coarsest stride, or the tokenizer was cast to another dtype.
        CheckpointError: The state in `out` belongs to other settings, is damaged, or cannot be written.
        PyramidTokenizerError: The loss is not finite.

    Example:
        train(PyramidTokenizer.from_config(config), find_images("photos"), out=Path("model"), config=TrainConfig())
    """
    if config.crop_px % tok.multiple_px:
        raise ConfigError(
            f"expected crop_px in multiples of {tok.multiple_px}, got {config.crop_px}: "
            "choose a multiple of the coarsest stride"
        )
    if tok.dtype != torch.float32:
        raise ConfigError(f"expected a float32 tokenizer, got {tok.dtype}: set mixed_precision instead of casting it")
    accelerator = _accelerator(config)
    tok.to(accelerator.device)
    folder = out / ".training"
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder / "settings.json", tok, files, config)
    _once(folder / "fitted.safetensors", tok, lambda: _fit(tok, files, config, log))
    _once(
        folder / "codebooks.safetensors",
        tok,
        lambda: _train(CodebookStage, tok, files, config, accelerator, folder, log),
    )
    _once(
        folder / "decoder.safetensors", tok, lambda: _train(DecoderStage, tok, files, config, accelerator, folder, log)
    )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        tok.save_pretrained(out, half=half)
    return tok


def _accelerator(config: TrainConfig) -> Accelerator:
    # a prefix of levels leaves the finer ones' parameters without a gradient
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # without a GPU, accelerate takes torchrun's processes for single ones that all write the same files
    several_on_cpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    return Accelerator(mixed_precision=config.mixed_precision, cpu=several_on_cpu, kwargs_handlers=[unused])


def _check_settings(path: Path, tok: PyramidTokenizer, files: Sequence[Path], config: TrainConfig) -> None:
    """Writes down what the run was started with; refuses to resume it with anything else."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in MACHINE_SETTINGS}
    settings |= {"tokenizer": to_dict(tok.config), "images": len(files)}
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if not path.exists():
        if distributed.is_main():
            part = path.with_suffix(".part")
            part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            os.replace(part, path)
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in settings | stored if settings.get(name) != stored.get(name)]
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"expected the run's settings in {path}, got {error}: delete {path.parent} to start anew"
        ) from error
    if changed:
        was, now = ({name: given.get(name) for name in changed} for given in (stored, settings))
        raise CheckpointError(
            f"expected to resume with {was}, got {now}: use the same settings, another directory, or delete "
            f"{path.parent} to start anew"
        )


def _once(path: Path, tok: PyramidTokenizer, work: Callable[[], None]) -> None:
    """Does the work and keeps the tokenizer's tensors; a resumed run takes them from there instead.

    The work's own state, which lies beside `path`, has then done its service.
    """
    if path.exists():
        tok.load_own(hub.read_weights(path, tok.own_tensors()))
        return
    work()
    if distributed.is_main():
        hub.write_weights(path, tok.own_tensors())
        path.with_suffix(STATE_SUFFIX).unlink(missing_ok=True)


def _fit(
    tok: PyramidTokenizer, files: Sequence[Path], config: TrainConfig, log: Callable[[dict[str, Any]], None]
) -> None:
    if tok.quantizer.is_fitted:
        return
    crops = RandomCrops(files, batch_size=config.batch_size, crop_px=config.crop_px, seed=config.seed)
    steps = max(1, min(config.fit_images, len(files)) // config.batch_size)

    def batches() -> Iterator[Tensor]:
        return (crops[step] for step in range(steps))

    reports = tok.fit(batches, vectors_per_code=config.vectors_per_code, seed=config.seed)
    for report in reports if distributed.is_main() else ():
        figures = dataclasses.asdict(report)
        step = figures.pop("level") + 1
        log({"stage": "fit", "step": step, "steps": len(reports), **figures})


def _train(
    kind: type[CodebookStage] | type[DecoderStage],
    tok: PyramidTokenizer,
    files: Sequence[Path],
    config: TrainConfig,
    accelerator: Accelerator,
    folder: Path,
    log: Callable[[dict[str, Any]], None],
) -> None:
    if not (config.codebook_steps if kind is CodebookStage else config.decoder_steps):
        return
    stage = kind(tok, config)
    # stages draw different crops: another seed each
    crops = RandomCrops(
        files,
        batch_size=config.batch_size,
        crop_px=config.crop_px,
        seed=config.seed + (1 if kind is CodebookStage else 2),
        rank=accelerator.process_index,
    )
    for parameter in stage.trainable():
        parameter.requires_grad_(True)
    try:
        run_stage(
            stage, crops, config, accelerator=accelerator, state_path=folder / f"{stage.name}{STATE_SUFFIX}", log=log
        )
    finally:
        tok.requires_grad_(False)
        tok.eval()

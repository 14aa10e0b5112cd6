"""`train`: closed-form fit, stage 1, stage 2, save. Every stage resumes, and what it made is kept before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pyramid_tokenizer import distributed, hub
from pyramid_tokenizer.data import RandomCrops
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training.config import TrainConfig
from pyramid_tokenizer.training.loop import run_stage
from pyramid_tokenizer.training.stages import CodebookStage, DecoderStage


def print_log(figures: dict[str, Any]) -> None:
    """One line a call: stage, step, then name and value of each figure."""
    rest = {k: v for k, v in figures.items() if k not in ("stage", "step", "steps")}
    print(
        f"{figures['stage']} {figures['step']}/{figures['steps']} " + " ".join(f"{k} {v:.4g}" for k, v in rest.items()),
        flush=True,
    )


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
        DataError: No images, or too few for the codebooks.
        ConfigError: The crop is no multiple of the coarsest stride.
        CheckpointError: The state in `out` belongs to other settings.
    """
    if config.crop_px % tok.multiple_px:
        raise ConfigError(
            f"expected crop_px in multiples of {tok.multiple_px}, got {config.crop_px}: choose a multiple of the coarsest stride"
        )
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    tok.to(accelerator.device)
    folder = out / ".training"
    folder.mkdir(parents=True, exist_ok=True)
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


def _once(path: Path, tok: PyramidTokenizer, work: Callable[[], None]) -> None:
    """Does the work and keeps the tokenizer's tensors; a resumed run takes them from there instead."""
    if path.exists():
        tok.load_own(hub.read_weights(path, tok.own_tensors()))
        return
    work()
    if distributed.is_main():
        hub.write_weights(path, tok.own_tensors())


def _fit(
    tok: PyramidTokenizer, files: Sequence[Path], config: TrainConfig, log: Callable[[dict[str, Any]], None]
) -> None:
    if tok.quantizer.is_fitted:
        return
    crops = RandomCrops(files, batch_size=config.batch_size, crop_px=config.crop_px, seed=config.seed)
    steps = max(1, min(config.fit_images, len(files)) // config.batch_size)

    def batches() -> Iterator[Tensor]:
        return (crops[step] for step in range(steps))

    for report in tok.fit(batches, vectors_per_code=config.vectors_per_code, seed=config.seed):
        log(
            {
                "stage": "fit",
                "step": report.level + 1,
                "steps": len(tok.quantizer.levels),
                "vectors": report.vectors,
                "pixels_explained": report.pixels_explained,
                "meaning_explained": report.meaning_explained,
                "quantisation_loss": report.quantisation_loss,
            }
        )


def _train(
    kind: type[CodebookStage] | type[DecoderStage],
    tok: PyramidTokenizer,
    files: Sequence[Path],
    config: TrainConfig,
    accelerator: Accelerator,
    folder: Path,
    log: Callable[[dict[str, Any]], None],
) -> None:
    stage = kind(tok, config)
    if not stage.steps:
        return
    # stages draw different crops: another seed each
    crops = RandomCrops(
        files,
        batch_size=config.batch_size,
        crop_px=config.crop_px,
        seed=config.seed + (1 if kind is CodebookStage else 2),
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    for parameter in stage.trainable():
        parameter.requires_grad_(True)
    try:
        run_stage(stage, crops, config, accelerator=accelerator, state_path=folder / f"{stage.name}.pt", log=log)
    finally:
        tok.requires_grad_(False)
        tok.eval()

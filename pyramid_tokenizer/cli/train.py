"""The command `train`: from images to a model of one's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.cli.progress import show_steps
from pyramid_tokenizer.cli.terminal import make_console, warnings_as_lines
from pyramid_tokenizer.cli.training_options import (
    SHEET_EVERY,
    USUAL,
    USUAL_PERCEPTUAL,
    Accumulate,
    BatchSize,
    Bf16,
    CodebookRate,
    CodebookSteps,
    Column,
    Crop,
    FitImages,
    Half,
    Out,
    Perceptual,
    Rate,
    Seed,
    SheetEvery,
    Source,
    Steps,
    TensorBoard,
    Workers,
    check_out,
    frozen_command,
    shared_settings,
    tell_end,
)
from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import ConfigError, TooFewCellsError
from pyramid_tokenizer.files import load_json

if TYPE_CHECKING:
    from pyramid_tokenizer.config.models import TokenizerConfig
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Backbone, levels and decoder of the new model, in the format of a saved model's config.json.",
    ),
]
BackboneDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="With --config: the folder of the backbone, in open_clip's local-directory layout."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Instead of --config: the model whose backbone, levels and decoder are taken over, untrained.  [default: tiny]",
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help='Instead of --config: an open_clip backbone, with the levels that suit it, e.g. "ViT-B-16" or "hf-hub:ORG/REPO".',
    ),
]
Pretrained = Annotated[
    str | None,
    typer.Option(metavar="TAG", help="With --backbone: open_clip's tag of the weights, or a checkpoint file."),
]


def train(
    context: typer.Context,
    *,
    images: Source,
    out: Out,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    config: Config = None,
    backbone_dir: BackboneDir = None,
    model: Model = None,
    column: Column = None,
    steps: Steps = USUAL.decoder_steps,
    codebook_steps: CodebookSteps = USUAL.codebook_steps,
    fit_images: FitImages = USUAL.fit_images,
    batch_size: BatchSize = USUAL.batch_size,
    accumulate: Accumulate = USUAL.accumulate,
    crop: Crop = USUAL.crop_px,
    lr: Rate = USUAL.decoder_lr,
    codebook_lr: CodebookRate = USUAL.codebook_lr,
    perceptual: Perceptual = USUAL_PERCEPTUAL,
    bf16: Bf16 = False,
    seed: Seed = USUAL.seed,
    workers: Workers = USUAL.workers,
    sheet_every: SheetEvery = SHEET_EVERY,
    tensorboard: TensorBoard = False,
    half: Half = False,
) -> None:
    """Train a model on images.

    The codebooks are fitted, then the decoder is trained; the backbone stays frozen. A run may be interrupted at any time: the
    same command goes on from there. For several GPUs, start it with `accelerate launch -m pyramid_tokenizer.cli train ...`.
    """
    check_out(out)
    from pyramid_tokenizer.images import open_images
    from pyramid_tokenizer.training import train as train_images

    settings = TrainConfig(
        decoder_steps=steps,
        codebook_steps=codebook_steps,
        fit_images=fit_images,
        batch_size=batch_size,
        crop_px=crop,
        decoder_lr=lr,
        codebook_lr=codebook_lr,
        perceptual=perceptual.value,
        sheet_every=sheet_every,
        tensorboard=tensorboard,
        **shared_settings(
            accumulate=accumulate, bf16=bf16, seed=seed, workers=workers, steps=max(steps, codebook_steps)
        ),
    )
    console = make_console()
    source = open_images(images, column=column)
    tok = _make_tokenizer(backbone, pretrained, config, backbone_dir, model)
    sizes = "+".join(str(size) for size in tok.quantizer.codebook_sizes)
    console.print(f"train: {len(source):,} images, codebooks of {sizes} entries -> {out}")
    try:
        with warnings_as_lines(), show_steps(console) as log:
            train_images(tok, source, out=out, config=settings, half=half, log=log)
    except TooFewCellsError as error:
        new = ("backbone", "pretrained", "config", "backbone_dir")
        command = frozen_command(context, model=model or "tiny", out=out, without=new)
        raise TooFewCellsError(f"{error}. With the codebooks of a trained model it works: {command}") from error
    tell_end(console, out, len(source))


def _make_tokenizer(
    backbone: str | None, pretrained: str | None, config: Path | None, backbone_dir: Path | None, model: str | None
) -> PyramidTokenizer:
    """A tokenizer with a backbone and empty codebooks."""
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

    named = {"--backbone": backbone, "--config": config, "--model": model}
    given = [f"{option} {value}" for option, value in named.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"expected one of {', '.join(named)}, got {' and '.join(given)}: leave one out")
    for option, value, owner in (("--pretrained", pretrained, backbone), ("--backbone-dir", backbone_dir, config)):
        if value is not None and owner is None:
            needed = "--backbone" if option == "--pretrained" else "--config"
            raise ConfigError(f"expected {needed} with {option} {value}, got none: a model has its own backbone")
    if backbone is not None:
        return PyramidTokenizer.from_backbone(backbone, pretrained=pretrained)
    if config is not None:
        return PyramidTokenizer.from_config(_read_config(config), directory=backbone_dir)
    base = PyramidTokenizer.from_pretrained(model or "tiny")
    return PyramidTokenizer.from_config(dataclasses.replace(base.config, fingerprint=""), backbone=base.backbone)


def _read_config(path: Path) -> TokenizerConfig:
    from pyramid_tokenizer.config.models import TokenizerConfig
    from pyramid_tokenizer.config.plain import from_dict

    try:
        data = load_json(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = f"{path}: {error}"
        raise ConfigError(
            f"expected a JSON file as --config, got {reason}: see config.json of a saved model"
        ) from error
    # of the model that the file was copied from; this one gets its own
    return dataclasses.replace(from_dict(TokenizerConfig, data, where=str(path)), fingerprint="")

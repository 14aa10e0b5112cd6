"""The command `finetune`: trains a model further, on images or on masks of one's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pyramid_tokenizer.cli.finetune_segmentation import Classes, Joint, Masks, OwnTrunk, Split, train_on_masks
from pyramid_tokenizer.cli.progress import show_steps
from pyramid_tokenizer.cli.terminal import load_tokenizer, make_console, warnings_as_lines
from pyramid_tokenizer.cli.training_options import (
    SHEET_EVERY,
    SOURCE_HELP,
    USUAL,
    USUAL_PERCEPTUAL,
    Accumulate,
    Bf16,
    CodebookRate,
    CodebookSteps,
    Column,
    FitImages,
    Half,
    Out,
    Perceptual,
    Seed,
    SheetEvery,
    TensorBoard,
    Workers,
    check_out,
    frozen_command,
    shared_settings,
    tell_end,
)
from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import ConfigError, TooFewCellsError

HEAD_BATCH_SIZE = 8
"""Default of --batch-size for a segmentation head: crops are larger and logits of many classes take memory."""
HEAD_CROP_PX = 192
"""Default of --crop for a segmentation head: an object and what is around it."""

IMAGES_ONLY = (
    *("column", "codebooks", "codebook_steps", "codebook_lr", "fit_images", "perceptual", "sheet_every"),
    "tensorboard",
)
"""Options that only --images takes."""
MASKS_ONLY = ("classes", "split", "joint", "own_trunk")
"""Options that only --segmentation takes."""


class Codebooks(StrEnum):
    """Choices of --codebooks."""

    refit = "refit"
    continue_ = "continue"
    frozen = "frozen"


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help='A bundled model, a directory, or a Hub repository "user/repo".')
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help=SOURCE_HELP,
    ),
]
Start = Annotated[
    Codebooks,
    typer.Option(
        metavar="refit|continue|frozen",
        help="With --images: run k-means anew, refine the codebooks by gradients, or keep every id, so that stored tokens stay "
        "valid.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Training steps of the decoder, or of the head.  "
        f"[default: {USUAL.decoder_steps}; head {USUAL.head_steps}]",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help=f"Crops per pass and process.  [default: {USUAL.batch_size}; head {HEAD_BATCH_SIZE}]",
    ),
]
Crop = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        min=1,
        help=f"Side of a crop, a multiple of the coarsest stride.  [default: {USUAL.crop_px}; head {HEAD_CROP_PX}]",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="RATE",
        help=f"Peak learning rate of the decoder, or of the head.  [default: {USUAL.decoder_lr}; head {USUAL.head_lr}]",
    ),
]


def finetune(
    context: typer.Context,
    model: Model,
    *,
    out: Out,
    images: Images = None,
    segmentation: Masks = None,
    classes: Classes = None,
    split: Split = None,
    joint: Joint = False,
    own_trunk: OwnTrunk = False,
    codebooks: Start = Codebooks.refit,
    column: Column = None,
    steps: Steps = None,
    codebook_steps: CodebookSteps = USUAL.codebook_steps,
    fit_images: FitImages = USUAL.fit_images,
    batch_size: BatchSize = None,
    accumulate: Accumulate = USUAL.accumulate,
    crop: Crop = None,
    lr: Rate = None,
    codebook_lr: CodebookRate = USUAL.codebook_lr,
    perceptual: Perceptual = USUAL_PERCEPTUAL,
    bf16: Bf16 = False,
    seed: Seed = USUAL.seed,
    workers: Workers = USUAL.workers,
    sheet_every: SheetEvery = SHEET_EVERY,
    tensorboard: TensorBoard = False,
    half: Half = False,
) -> None:
    """Train a model further on images of your own, or teach it to segment from masks.

    With --images, codebooks and decoder are trained; a segmentation head that no longer fits them is left out, which is told.
    With --segmentation, a segmentation head is trained on the tokens: every id stays the same, and so does every decoded pixel
    unless --joint is given. Options of one kind are refused with the other.

    A run may be interrupted at any time: the same command goes on from there. See `train` for several GPUs.
    """
    check_kind(context, images=images, masks=segmentation)
    check_out(out)
    common = {"accumulate": accumulate, "bf16": bf16, "seed": seed, "workers": workers}
    if segmentation is not None:
        steps = USUAL.head_steps if steps is None else steps
        config = TrainConfig(
            head_steps=steps,
            batch_size=batch_size or HEAD_BATCH_SIZE,
            crop_px=crop or HEAD_CROP_PX,
            head_lr=USUAL.head_lr if lr is None else lr,
            decoupled=not joint,
            **shared_settings(steps=steps, **common),
        )
        chosen = {"split": split, "classes": classes, "own_trunk": own_trunk}
        train_on_masks(model, segmentation, config=config, out=out, half=half, **chosen)
        return
    steps = USUAL.decoder_steps if steps is None else steps
    config = TrainConfig(
        fit_images=fit_images,
        codebook_steps=codebook_steps,
        batch_size=batch_size or USUAL.batch_size,
        crop_px=crop or USUAL.crop_px,
        decoder_lr=USUAL.decoder_lr if lr is None else lr,
        codebook_lr=codebook_lr,
        perceptual=perceptual.value,
        sheet_every=sheet_every,
        tensorboard=tensorboard,
        **shared_settings(steps=steps, **common),
    )
    assert images is not None
    options = {"column": column, "steps": steps, "codebooks": codebooks.value, "out": out, "half": half}
    try:
        _train_on_images(model, images, config=config, **options)
    except TooFewCellsError as error:
        command = frozen_command(context, model=model, out=out, without=())
        raise TooFewCellsError(f"{error}. This works: {command}") from error


def check_kind(context: typer.Context, *, images: str | None, masks: Path | None) -> None:
    """Checks that one kind of data is given, and no option that only the other kind takes.

    Raises:
        ConfigError: Both kinds or neither are given, or an option of the other kind.
    """
    if (images is None) == (masks is None):
        got = "neither" if masks is None else f"both, {images} and {masks}"
        raise ConfigError(
            f"expected --images SOURCE or --segmentation FOLDER, got {got}: give one, each trains other parts"
        )
    if context.params["joint"] and context.params["own_trunk"]:
        raise ConfigError(
            "expected --joint or --own-trunk, got both: --joint trains the trunk that the head shares with the decoder"
        )
    kind, other, strangers = (
        ("--segmentation", "--images", IMAGES_ONLY) if masks is not None else ("--images", "--segmentation", MASKS_ONLY)
    )
    for name in strangers:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"expected {option} with {other}, got it with {kind}: leave it out, it has no effect there"
            )


def _train_on_images(
    model: str,
    images: str,
    *,
    config: TrainConfig,
    column: str | None,
    steps: int,
    codebooks: str,
    out: Path,
    half: bool,
) -> None:
    from pyramid_tokenizer.images import open_images
    from pyramid_tokenizer.training import finetune as finetune_images

    console = make_console()
    source = open_images(images, column=column)
    tok = load_tokenizer(model)
    console.print(f"finetune: {len(source):,} images, {model}, codebooks: {codebooks} -> {out}")
    before = tok.fingerprint
    with warnings_as_lines(), show_steps(console) as log:
        options: dict[str, Any] = {"codebooks": codebooks, "config": config, "half": half, "log": log}
        finetune_images(tok, source, steps=steps, out=out, **options)
    tell_end(console, out, len(source))
    same = "the same: tokens stored before stay valid" if tok.fingerprint == before else "new: encode your images again"
    console.print(f"ids are {same}")

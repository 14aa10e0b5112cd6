"""`finetune`: a trained model and images or masks of one's own -> a model that knows them better."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyramid_tokenizer.cli.finetune_segmentation import Classes, Joint, Masks, OwnTrunk, Split, train_on_masks
from pyramid_tokenizer.cli.progress import show_steps
from pyramid_tokenizer.cli.terminal import load_tokenizer, make_console
from pyramid_tokenizer.cli.training_options import (
    Accumulate,
    Bf16,
    CodebookRate,
    CodebookSteps,
    Column,
    FitImages,
    Half,
    Out,
    Perceptual,
    PerceptualKind,
    Seed,
    SheetEvery,
    TensorBoard,
    Workers,
    check_out,
    tell_end,
)
from pyramid_tokenizer.errors import ConfigError

if TYPE_CHECKING:
    from pyramid_tokenizer.training import TrainConfig

IMAGES_ONLY = (
    *("column", "codebooks", "codebook_steps", "codebook_lr", "fit_images", "perceptual", "sheet_every"),
    "tensorboard",
)
"""Options that say nothing about a segmentation head."""
MASKS_ONLY = ("classes", "split", "joint", "own_trunk")
"""Options of the segmentation head."""


class Codebooks(str, Enum):
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
        help="A folder of images, a .txt that lists files, WebDataset .tar shards, Parquet files, or a saved data set.",
    ),
]
Start = Annotated[
    Codebooks,
    typer.Option(
        metavar="refit|continue|frozen",
        help="With --images: run k-means anew, refine by gradients, or keep every id so that stored tokens stay valid.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="Steps of the decoder, or of the head.  [default: 2000; head 1500]"),
]
BatchSize = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Crops per pass and process.  [default: 32; head 8]")
]
Crop = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS", min=1, help="Side of a crop, a multiple of the coarsest stride.  [default: 128; head 192]"
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--lr", metavar="RATE", help="Peak learning rate of the decoder, or of the head.  [default: 7e-4; head 1e-3]"
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
    codebook_steps: CodebookSteps = 0,
    fit_images: FitImages = 4000,
    batch_size: BatchSize = None,
    accumulate: Accumulate = 1,
    crop: Crop = None,
    lr: Rate = None,
    codebook_lr: CodebookRate = 3e-4,
    perceptual: Perceptual = PerceptualKind.none,
    bf16: Bf16 = False,
    seed: Seed = 0,
    workers: Workers = 0,
    sheet_every: SheetEvery = 500,
    tensorboard: TensorBoard = False,
    half: Half = False,
) -> None:
    """Train a model further, on images of your own, or teach it masks.

    With --images codebooks and decoder learn. With --segmentation a head learns to find classes in the tokens; ids stay the
    same, and without --joint every decoded pixel too. An option of one kind is refused with the other.

    Interrupt it at any time: the same command resumes. See `train` for several GPUs.
    """
    check_kind(context, images=images, masks=segmentation)
    check_out(out)
    from pyramid_tokenizer.training import TrainConfig

    common = {"accumulate": accumulate, "mixed_precision": "bf16" if bf16 else "no", "seed": seed, "workers": workers}
    usual = TrainConfig()
    if segmentation is not None:
        steps = usual.head_steps if steps is None else steps
        config = TrainConfig(
            head_steps=steps,
            batch_size=batch_size or 8,
            crop_px=crop or 192,
            head_lr=usual.head_lr if lr is None else lr,
            decoupled=not joint,
            log_every=log_every(steps),
            **common,
        )
        chosen = {"split": split, "classes": classes, "own_trunk": own_trunk}
        train_on_masks(model, segmentation, config=config, out=out, half=half, **chosen)
        return
    steps = usual.decoder_steps if steps is None else steps
    config = TrainConfig(
        fit_images=fit_images,
        codebook_steps=codebook_steps,
        batch_size=batch_size or usual.batch_size,
        crop_px=crop or usual.crop_px,
        decoder_lr=usual.decoder_lr if lr is None else lr,
        codebook_lr=codebook_lr,
        perceptual=perceptual.value,
        log_every=log_every(steps),
        sheet_every=sheet_every,
        tensorboard=tensorboard,
        **common,
    )
    assert images is not None
    _train_on_images(
        model, images, config=config, column=column, steps=steps, codebooks=codebooks.value, out=out, half=half
    )


def log_every(steps: int) -> int:
    """Steps between two lines: about twenty lines a run, at least one line in fifty steps."""
    return max(1, min(50, steps // 20))


def check_kind(context: typer.Context, *, images: str | None, masks: Path | None) -> None:
    """Refuses both kinds of data, none, and options that were typed for the other kind.

    Raises:
        ConfigError: It does.
    """
    if (images is None) == (masks is None):
        got = "neither" if masks is None else f"both, {images} and {masks}"
        raise ConfigError(
            f"expected --images SOURCE or --segmentation FOLDER, got {got}: give one, each trains other parts"
        )
    if context.params["joint"] and context.params["own_trunk"]:
        raise ConfigError(
            "expected --joint or --own-trunk, got both: the decoder paints from the trunk that it shares with the head"
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
    with show_steps(console) as log:
        options: dict[str, Any] = {"codebooks": codebooks, "config": config, "half": half, "log": log}
        finetune_images(tok, source, steps=steps, out=out, **options)
    tell_end(console, out, len(source))
    same = "the same: tokens stored before stay valid" if tok.fingerprint == before else "new: encode your images again"
    console.print(f"ids are {same}")

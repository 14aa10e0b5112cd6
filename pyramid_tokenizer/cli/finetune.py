"""`finetune`: a trained model and images of one's own -> a model that knows them better."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from pyramid_tokenizer.cli.progress import show_steps
from pyramid_tokenizer.cli.terminal import load_tokenizer, make_console
from pyramid_tokenizer.cli.training_options import (
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
    PerceptualKind,
    Rate,
    Seed,
    SheetEvery,
    Source,
    Steps,
    TensorBoard,
    Workers,
    check_out,
    tell_end,
)


class Codebooks(str, Enum):
    """Choices of --codebooks."""

    refit = "refit"
    continue_ = "continue"
    frozen = "frozen"


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help='A bundled model, a directory, or a Hub repository "user/repo".')
]
Start = Annotated[
    Codebooks,
    typer.Option(
        metavar="refit|continue|frozen",
        help="Run k-means anew, refine by gradients, or keep every id so that stored tokens stay valid.",
    ),
]


def finetune(
    model: Model,
    *,
    images: Source,
    out: Out,
    codebooks: Start = Codebooks.refit,
    column: Column = None,
    steps: Steps = 2000,
    codebook_steps: CodebookSteps = 0,
    fit_images: FitImages = 4000,
    batch_size: BatchSize = 32,
    accumulate: Accumulate = 1,
    crop: Crop = 128,
    lr: Rate = 7e-4,
    codebook_lr: CodebookRate = 3e-4,
    perceptual: Perceptual = PerceptualKind.none,
    bf16: Bf16 = False,
    seed: Seed = 0,
    workers: Workers = 0,
    sheet_every: SheetEvery = 500,
    tensorboard: TensorBoard = False,
    half: Half = False,
) -> None:
    """Train a model further, on images of your own.

    Interrupt it at any time: the same command resumes. See `train` for several GPUs.
    """
    check_out(out)
    from pyramid_tokenizer.data import open_images
    from pyramid_tokenizer.training import TrainConfig
    from pyramid_tokenizer.training import finetune as finetune_images

    settings = TrainConfig(
        fit_images=fit_images,
        codebook_steps=codebook_steps,
        batch_size=batch_size,
        accumulate=accumulate,
        crop_px=crop,
        decoder_lr=lr,
        codebook_lr=codebook_lr,
        perceptual=perceptual.value,
        mixed_precision="bf16" if bf16 else "no",
        seed=seed,
        workers=workers,
        log_every=max(1, min(50, steps // 20)),
        sheet_every=sheet_every,
        tensorboard=tensorboard,
    )
    console = make_console()
    source = open_images(images, column=column)
    tok = load_tokenizer(model)
    console.print(f"finetune: {len(source):,} images, {model}, codebooks: {codebooks.value} -> {out}")
    before = tok.fingerprint
    with show_steps(console) as log:
        options = {"codebooks": codebooks.value, "config": settings, "half": half, "log": log}
        finetune_images(tok, source, steps=steps, out=out, **options)
    tell_end(console, out, len(source))
    same = "the same: tokens stored before stay valid" if tok.fingerprint == before else "new: encode your images again"
    console.print(f"ids are {same}")

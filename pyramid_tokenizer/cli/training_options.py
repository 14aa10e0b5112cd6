"""Options that `train` and `finetune` share, their defaults, and what both do around the training itself."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import PyramidTokenizerError

if TYPE_CHECKING:
    from rich.console import Console

USUAL = TrainConfig()
"""Where the options' defaults come from."""
SHEET_EVERY = 500
"""Default of --sheet-every. The library writes no sheets by default, because it may have no folder to write them in."""
LINES_PER_RUN = 20
"""Lines of the log in a short run, at least; a longer one has a line every `USUAL.log_every` steps."""


class PerceptualKind(StrEnum):
    """Choices of --perceptual."""

    none = "none"
    backbone = "backbone"
    lpips = "lpips"


USUAL_PERCEPTUAL = PerceptualKind(USUAL.perceptual)
"""Default of --perceptual."""
SOURCE_HELP = (
    "A folder of images, a .txt file that lists them, WebDataset .tar shards, Parquet files, or a data set saved by "
    "`datasets`."
)
Source = Annotated[str, typer.Option("--images", metavar="SOURCE", help=SOURCE_HELP)]
Column = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The column that holds the images in Parquet files or a data set; by default, the only one that does.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Where the model is written. An interrupted run goes on by the same command.",
    ),
]
Steps = Annotated[int, typer.Option(metavar="N", min=0, help="Training steps of the decoder.")]
CodebookSteps = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Training steps that refine the codebooks; 0 leaves them as the gradient-free fit made them.",
    ),
]
FitImages = Annotated[
    int, typer.Option(metavar="N", min=1, help="Largest number of crops for the gradient-free fit of the codebooks.")
]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Crops per pass and process.")]
Accumulate = Annotated[int, typer.Option(metavar="N", min=1, help="Passes whose gradients make one step.")]
Crop = Annotated[int, typer.Option(metavar="PIXELS", min=1, help="Side of a crop, a multiple of the coarsest stride.")]
Rate = Annotated[float, typer.Option("--lr", metavar="RATE", help="Peak learning rate of the decoder.")]
CodebookRate = Annotated[
    float, typer.Option("--codebook-lr", metavar="RATE", help="Peak learning rate of the codebooks.")
]
Perceptual = Annotated[
    PerceptualKind,
    typer.Option(
        metavar="none|backbone|lpips",
        help="A further loss of the decoder: the distance of the backbone's finest maps, or LPIPS.",
    ),
]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Train in bfloat16; the codebooks stay in float32.")]
Seed = Annotated[
    int, typer.Option(metavar="N", help="Random seed: a run with the same seed and data gives the same model.")
]
Workers = Annotated[
    int,
    typer.Option(metavar="N", min=0, help="Processes that load images; at 0 the training process loads them itself."),
]
SheetEvery = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="Steps between two sheets of reconstructions in FOLDER/sheets; 0 writes none."
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write the figures for TensorBoard, in FOLDER/tensorboard.")
]
Half = Annotated[bool, typer.Option("--half", help="Store the decoder in float16, which halves its size.")]


def shared_settings(*, accumulate: int, bf16: bool, seed: int, workers: int, steps: int) -> dict[str, Any]:
    """Fields of `TrainConfig` that both commands and all stages take.

    Args:
        accumulate: As --accumulate.
        bf16: As --bf16.
        seed: As --seed.
        workers: As --workers.
        steps: Steps of the longest stage.
    """
    log_every = max(1, min(USUAL.log_every, steps // LINES_PER_RUN))
    precision = "bf16" if bf16 else "no"
    return {
        "accumulate": accumulate,
        "mixed_precision": precision,
        "seed": seed,
        "workers": workers,
        "log_every": log_every,
    }


def frozen_command(context: typer.Context, *, model: str, out: Path, without: Iterable[str]) -> str:
    """The command that trains the decoder of a model on the same images and keeps its codebooks, which needs no fit.

    Args:
        context: Of the command that failed; its options are taken over.
        model: The model to be trained further.
        out: As --out of that command; another folder is named where a run was begun in it.
        without: Names of parameters that are left out, beside those of a fit and of the model.
    """
    if (out / ".training" / "settings.json").exists():
        out = out.with_name(f"{out.name}-frozen")
    words = ["pyramid-tokenizer", "finetune", model]
    dropped = {"model", "out", "codebooks", "codebook_steps", "codebook_lr", "fit_images", *without}
    for option in context.command.params:
        source, value = context.get_parameter_source(option.name or ""), context.params.get(option.name or "")
        if option.name not in dropped and source is not None and source.name == "COMMANDLINE":
            words += [option.opts[0]] if value is True else [option.opts[0], str(value)]
    return shlex.join([*words, "--codebooks", "frozen", "--out", str(out)])


def check_out(out: Path) -> None:
    """Refuses a folder that holds a model which was not trained there.

    Args:
        out: Folder of the new model.

    Raises:
        PyramidTokenizerError: It holds such a model.
    """
    if (out / "config.json").exists() and not (out / ".training").is_dir():
        raise PyramidTokenizerError(
            f"expected a new folder or one with a training to resume as --out, got the model {str(out)!r}: choose another"
        )


def tell_end(console: Console, out: Path, num_images: int) -> None:
    """Prints how many images could not be used, where the model is, and the command that shows what it does.

    Args:
        console: Where to print.
        out: Folder of the new model.
        num_images: Number of images in the source.
    """
    from pyramid_tokenizer.images import read_skip_log
    from pyramid_tokenizer.training.train import SKIP_LOG

    skipped = read_skip_log(out / SKIP_LOG)
    if skipped:
        console.print(f"{len(skipped):,} of {num_images:,} images skipped: {out / SKIP_LOG} says which and why")
    console.print(f"model written to {out}")
    console.print(f"see what it does: pyramid-tokenizer reconstruct IMAGES --model {shlex.quote(str(out))}")

"""Options that `train` and `finetune` share, and what both do around the training itself."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.errors import PyramidTokenizerError

if TYPE_CHECKING:
    from rich.console import Console


class PerceptualKind(str, Enum):
    """Choices of --perceptual."""

    none = "none"
    backbone = "backbone"
    lpips = "lpips"


Source = Annotated[
    str,
    typer.Option(
        "--images",
        metavar="SOURCE",
        help="A folder of images, a .txt that lists files, WebDataset .tar shards, Parquet files, or a saved data set.",
    ),
]
Column = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of the images in Parquet or a data set; found if not given.")
]
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the model goes; the same command there resumes.")
]
Steps = Annotated[int, typer.Option(metavar="N", min=0, help="Steps of the decoder.")]
CodebookSteps = Annotated[
    int, typer.Option(metavar="N", min=0, help="Steps that refine the codebooks; 0 keeps their gradient-free fit.")
]
FitImages = Annotated[int, typer.Option(metavar="N", min=1, help="Crops of the gradient-free fit, at most.")]
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
        metavar="none|backbone|lpips", help="Further loss of the decoder: on the backbone's finest maps, or LPIPS."
    ),
]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Train in bfloat16; the codebooks stay in float32.")]
Seed = Annotated[int, typer.Option(metavar="N", help="With a step's number, the only source of chance.")]
Workers = Annotated[
    int, typer.Option(metavar="N", min=0, help="Processes that load images; 0 loads in the training one.")
]
SheetEvery = Annotated[
    int, typer.Option(metavar="N", min=0, help="Steps between reconstruction sheets in FOLDER/sheets; 0 for none.")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write the figures for TensorBoard, in FOLDER/tensorboard.")
]
Half = Annotated[bool, typer.Option("--half", help="Store the decoder as float16: half the size.")]


def check_out(out: Path) -> None:
    """Refuses a folder that holds a model which was not trained there.

    Args:
        out: Folder of the new model.

    Raises:
        PyramidTokenizerError: It does.
    """
    if (out / "config.json").exists() and not (out / ".training").is_dir():
        raise PyramidTokenizerError(
            f"expected a new folder or one with a training to resume as --out, got the model {str(out)!r}: choose another"
        )


def tell_end(console: Console, out: Path, num_images: int) -> None:
    """Says what could not be read, where the model is and how to look at it.

    Args:
        console: Where to.
        out: Folder of the new model.
        num_images: Of the source.
    """
    from pyramid_tokenizer.images import read_skip_log
    from pyramid_tokenizer.training.train import SKIP_LOG

    skipped = read_skip_log(out / SKIP_LOG)
    if skipped:
        console.print(f"{len(skipped):,} of {num_images:,} images skipped: {out / SKIP_LOG} says which and why")
    console.print(f"model written to {out}")
    console.print(f"see what it does: pyramid-tokenizer reconstruct IMAGES --model {shlex.quote(str(out))}")

"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Images = Annotated[
    list[str], typer.Argument(metavar="IMAGES", help="Image files, folders of images, or quoted glob patterns.")
]
Model = Annotated[
    str, typer.Option(metavar="NAME", help='The name of a bundled model, a directory, or a Hub repository "user/repo".')
]
Size = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        min=1,
        help="Resize the short side of the image to this first. Without it: the image keeps its size.",
    ),
]
Levels = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Use only the N coarsest levels. Without it: all levels.")
]
EncodedLevels = Annotated[
    int | None,
    typer.Option(
        "--levels",
        metavar="N",
        help="How many levels, coarse to fine. Without it: all that are no detail levels; with --max-tokens, --target-psnr or "
        "--quality all there are.",
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Keep at most N tokens of each image, the best that many. Without such a limit: all of them."
    ),
]
TargetPsnr = Annotated[
    float | None,
    typer.Option(
        metavar="DB",
        help="Instead of --max-tokens: keep as few tokens as give each decoded image this PSNR, from 10 to 60 dB.",
    ),
]
Quality = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Instead of --max-tokens: from 0, level 0 alone, to 1, everything, with one measure for all images, so that complex "
        "ones get more tokens than simple ones.",
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        metavar="PIXELS",
        help="Read larger images in overlapping windows of this side: with a ViT less memory and time, and other tokens. "
        "Without it: a ViT reads them whole, other models in bands with the same tokens.",
    ),
]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", help='The device on which the model runs, for example "cpu" or "cuda".')
]
ListPassedOver = Annotated[
    bool,
    typer.Option(
        "--list-passed-over",
        help="Name what is passed over in folders: names that begin with a dot, files with other endings, links to folders, and "
        "what is no regular file. Without it they are only counted.",
    ),
]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Go on with a run that was stopped: leave out files whose result is there. Tokens must be whole, of this model and "
        "of this size; images must be complete. Damaged results are made anew, others that do not fit are errors unless --force "
        "is given.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Print a line per file, which a single file always gets. Without it: a summary."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist; without this option that is an error.")]

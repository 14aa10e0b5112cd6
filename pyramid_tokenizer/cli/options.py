"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Images = Annotated[list[str], typer.Argument(metavar="IMAGES", help="Image files, folders of them, or quoted globs.")]
Model = Annotated[
    str, typer.Option(metavar="NAME", help='A bundled model, a directory, or a Hub repository "user/repo".')
]
Size = Annotated[
    int | None,
    typer.Option(metavar="PIXELS", min=1, help="Resize the short side to this first; the native size if not given."),
]
Levels = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Only the N coarsest levels; all of them if not given.")
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help='Where the model runs, e.g. "cpu" or "cuda".')]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist; without it, they are an error.")]

"""`classify`: shows which of the given names suit each image or token file best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.options import Device, ListPassedOver, Model, Size
from pyramid_tokenizer.cli.terminal import (
    Failures,
    load_tokenizer,
    make_console,
    make_table,
    show_progress,
    tell_passed_over,
)
from pyramid_tokenizer.cli.words import (
    Images,
    TextCache,
    TokenFiles,
    cache_folder,
    embed_names,
    find_inputs,
    read_names,
)

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

Names = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS", help='Names to choose from, separated by commas; "car|automobile" gives one class two words.'
    ),
]
NamesFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file to use instead of --names: one name per line, a JSON array or CSV; lines that start with # are skipped.",
    ),
]
Top = Annotated[int, typer.Option(metavar="N", min=1, help="How many names to show, at most.")]


def classify(
    images: Images = None,
    *,
    tokens: TokenFiles = None,
    names: Names = None,
    names_file: NamesFile = None,
    top: Top = 5,
    model: Model = "tiny",
    size: Size = None,
    device: Device = "cpu",
    text_cache: TextCache = "auto",
    list_passed_over: ListPassedOver = False,
) -> None:
    """Name images, or the images of token files.

    Shows the names that suit each image best, with the cosine similarity in [-1, 1] of the image's tokens and the name. Files
    that cannot be used are skipped and listed at the end, and the exit code is then 1.
    """
    words = read_names(names, names_file, option="--names")
    inputs = find_inputs(images, tokens, size=size)
    tok = load_tokenizer(model, device)
    console = make_console()
    tell_passed_over(console, inputs.sources, by_name=list_passed_over)
    embed_names(tok, words, console, text_cache=cache_folder(text_cache))
    table = make_table(None, "file", "name", "similarity")
    table.columns[1].justify = "left"
    with Failures(len(inputs.sources), inputs.sources.unlisted) as failures:
        with show_progress(console, "classify", len(inputs.sources)) as advance:
            for source in inputs.sources:
                with failures.item(source.path):
                    found = tok.classify(inputs.read(source), words)
                    _add_rows(table, printable(source.path), found.scores, found.names, top)
                advance()
        if table.row_count:
            console.print(table, soft_wrap=False)


def _add_rows(table: Table, path: str, scores: Tensor, names: Sequence[str], top: int) -> None:
    """Adds a row for each of the best names of each image; the first row has the name of the file."""
    for i, image_scores in enumerate(scores.tolist()):
        title = path if len(scores) == 1 else f"{path}, image {i}"
        best = sorted(zip(names, image_scores, strict=True), key=lambda pair: -pair[1])[:top]
        for name, score in best:
            table.add_row(title, name, f"{score:.3f}")
            title = ""

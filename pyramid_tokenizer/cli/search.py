"""`search`: words or an example image -> the images of a token dataset that suit them best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.options import Device, Model
from pyramid_tokenizer.cli.terminal import load_tokenizer, make_console, make_table, show_progress, show_share
from pyramid_tokenizer.cli.words import TextCache, cache_folder
from pyramid_tokenizer.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

    from pyramid_tokenizer.datasets import TokenDataset
    from pyramid_tokenizer.datasets.search import Match
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

_COLUMNS = 5
Dataset = Annotated[
    str, typer.Argument(metavar="DATASET", help="What tokenize wrote: a folder, or an address of fsspec.")
]
Words = Annotated[str | None, typer.Argument(metavar="WORDS", help='What to look for, such as "a red flower".')]
Example = Annotated[
    Path | None, typer.Option("--image", metavar="FILE", help="Instead of WORDS: an image; finds images like it.")
]
Top = Annotated[int, typer.Option(metavar="N", min=1, help="How many images to show, at most.")]
Sheet = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw the images that were found into this PNG file, decoded from their tokens."),
]
Originals = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="FOLDER",
        help="For --sheet: the folder of images that was tokenized; originals that are still there are drawn.",
    ),
]


def search(
    dataset: Dataset,
    words: Words = None,
    *,
    image: Example = None,
    top: Top = 20,
    sheet: Sheet = None,
    images: Originals = None,
    model: Model = "tiny",
    device: Device = "cpu",
    text_cache: TextCache = "auto",
) -> None:
    """Find images of a token dataset by words or by an example, from their tokens alone.

    Shows the cosine similarity in [-1, 1] of each image with the words or the example, best first. The first search of a dataset
    computes the embeddings of all images and keeps them in the user's cache folder.
    """
    from pyramid_tokenizer.datasets import TokenDataset
    from pyramid_tokenizer.text import TextEncoder

    if (words is None) == (image is None):
        got = "neither" if words is None else "both"
        raise ConfigError(f"expected WORDS or --image, got {got}: give one of the two")
    if images is not None and sheet is None:
        raise ConfigError("expected --sheet with --images, got none: originals are drawn on a sheet alone")
    ds = TokenDataset(dataset)
    tok = load_tokenizer(model, device)
    tok.text = TextEncoder(tok.backbone, cache_dir=cache_folder(text_cache))
    query = words if words is not None else image
    assert query is not None
    console = make_console()
    with show_share(console, "read tokens") as tell:
        found = ds.search(query, top=top, model=tok, progress=tell)
    table = make_table(None, "image", "similarity")
    for match in found:
        table.add_row(printable(match.key), f"{match.score:.3f}")
    console.print(table, soft_wrap=False)
    if sheet is not None:
        with show_progress(console, "draw", len(found)) as advance:
            _draw(ds, tok, found, images, advance).save(sheet)
        console.print(f"-> {printable(str(sheet))}")


def _draw(
    ds: TokenDataset, tok: PyramidTokenizer, found: Sequence[Match], images: Path | None, advance: Callable[[], None]
) -> Image.Image:
    from pyramid_tokenizer.visualize import contact_sheet

    drawn = []
    for match in found:
        drawn.append(_image_of(ds, tok, match, images))
        advance()
    texts = [f"{match.key}\n{match.score:.3f}" for match in found]
    starts = range(0, len(found), _COLUMNS)
    return contact_sheet(
        [drawn[start : start + _COLUMNS] for start in starts],
        captions=[texts[start : start + _COLUMNS] for start in starts],
    )


def _image_of(ds: TokenDataset, tok: PyramidTokenizer, match: Match, images: Path | None) -> Image.Image:
    """The original where it is still there, else what its tokens decode to."""
    from pyramid_tokenizer.images import to_pil
    from pyramid_tokenizer.images.read import to_batch

    original = None if images is None else images / match.key
    if original is not None and original.is_file():
        return to_pil(to_batch(original, size=ds.plan.image_recipe["size"]))[0]
    return to_pil(tok.decode(ds[match.row].tokens))[0]

"""`atlas`: a page that shows every code of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyramid_tokenizer.cli.files import check_absent
from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.options import Device, Force
from pyramid_tokenizer.cli.terminal import load_tokenizer, make_console, show_share, show_stages
from pyramid_tokenizer.cli.words import TextCache, cache_folder, read_names

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help='A bundled model, a directory, or a Hub repository "user/repo".')
]
Images = Annotated[
    str,
    typer.Option("--images", metavar="SOURCE", help="A folder, list, archive or table of images; see docs/sources.md."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder for the page and its images.")]
Size = Annotated[int, typer.Option(metavar="PIXELS", min=1, help="Resize the short side of the images to this first.")]
Patches = Annotated[int, typer.Option(metavar="N", min=1, help="How many patches to show of each code.")]
WordsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Words to describe codes with and to find them by, one a line. Without it: some hundred common English words.",
    ),
]


def atlas(
    model: Model,
    *,
    images: Images,
    out: Out,
    size: Size = 256,
    patches: Patches = 4,
    words_file: WordsFile = None,
    device: Device = "cpu",
    text_cache: TextCache = "auto",
    force: Force = False,
) -> None:
    """Show every code of a model: its nearest patches, its nearest words, its use and its neighbours.

    Writes index.html, which any browser opens from disk, with a search by words. The images are read one by one, so that
    thousands of them do not need more memory. Images that cannot be read are left out and counted on the page.
    """
    from pyramid_tokenizer.images import open_images
    from pyramid_tokenizer.text import TextEncoder
    from pyramid_tokenizer.visualize.atlas_page import PAGE, write_atlas
    from pyramid_tokenizer.visualize.words import NearestWords, common_words

    out = out.expanduser()
    if not force:
        check_absent([out / PAGE])
    listed = common_words() if words_file is None else read_names(None, words_file, option="--words")
    source = open_images(images)
    tok = load_tokenizer(model, device)
    console = make_console()
    console.print(f"atlas: comparing the codes of {printable(model)} with {len(listed):,} words")
    with show_share(console, "words") as tell:
        tok.text = TextEncoder(tok.backbone, cache_dir=cache_folder(text_cache), progress=tell)
        words = NearestWords.of(tok, listed)
    console.print(f"atlas: encoding {len(source):,} images")
    with show_stages(console) as stages:
        title = Path(model).name if Path(model).is_dir() else model
        kind = {"title": title, "words": words, "size": size, "patches": patches}
        found = write_atlas(tok, source, out, progress=stages.begin, **kind)
    for level, one in enumerate(found.levels):
        health = one.health
        used = len(one.counts) - health.num_unused
        console.print(f"level {level}: {used:,} of {len(one.counts):,} codes used, perplexity {health.perplexity:,.0f}")
    if found.skipped:
        console.print(
            f"{len(found.skipped)} of {len(source):,} images could not be read; the first: {printable(found.skipped[0])}"
        )
    console.print(f"-> {printable(out / PAGE)}")

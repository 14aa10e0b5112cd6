"""`inspect`: draws what the tokens of an image are and what they do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.cli.files import number_paths, plan_outputs
from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.json_output import record_file
from pyramid_tokenizer.cli.options import Device, EncodedLevels, Force, ListPassedOver, Model, Size, Verbose
from pyramid_tokenizer.cli.terminal import (
    Failures,
    check_levels,
    cut_levels,
    load_tokenizer,
    make_console,
    show_progress,
    show_share,
    tell_passed_over,
)
from pyramid_tokenizer.cli.words import TextCache, cache_folder, find_inputs
from pyramid_tokenizer.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid
    from pyramid_tokenizer.visualize.words import NearestWords

_MAPS, _PREFIXES, _TOKENS = ".maps.png", ".prefixes.png", ".tokens.png"
Inputs = Annotated[
    list[str],
    typer.Argument(metavar="FILES", help="Images or token files, folders of images, or quoted glob patterns."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder for the results.")]
At = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y",
        help="Show what the tokens at this pixel add, column and row from 0. Without it: of each level the token that "
        "changes the image the most.",
    ),
]


def inspect(
    files: Inputs,
    *,
    out: Out = Path("inspected"),
    at: At = None,
    model: Model = "tiny",
    size: Size = None,
    levels: EncodedLevels = None,
    device: Device = "cpu",
    text_cache: TextCache = "auto",
    list_passed_over: ListPassedOver = False,
    verbose: Verbose = False,
    force: Force = False,
) -> None:
    """Show what the tokens of an image are and what they do.

    For each image or token file it writes three PNGs: the token map of every level, in which a code has the same colour in every
    image; what every prefix of the levels decodes to; and of one token of each level its nearest words, and the image with it
    and without it. Files that cannot be read are skipped and listed at the end, and the exit code is then 1.
    """
    from pyramid_tokenizer.text import TextEncoder
    from pyramid_tokenizer.visualize.words import NearestWords

    place = None if at is None else _read_place(at)
    inputs = find_inputs(files, None, size=size)
    outputs = plan_outputs(inputs.sources, out=out, suffix=_MAPS, force=True)
    tok = load_tokenizer(model, device)
    check_levels(levels, len(tok.quantizer.strides))
    console = make_console()
    tell_passed_over(console, inputs.sources, by_name=list_passed_over)
    with show_share(console, "words") as tell:
        tok.text = TextEncoder(tok.backbone, cache_dir=cache_folder(text_cache), progress=tell)
        words = NearestWords.of_common_words(tok)
    total = len(inputs.sources)
    with Failures(total, inputs.sources.unlisted) as failures, show_progress(console, "inspect", total) as advance:
        for source, output in zip(inputs.sources, outputs, strict=True):
            with failures.item(source.path):
                pixels, tokens = _tokens_of(tok, inputs.read(source), levels)
                for i, path in enumerate(_paths(output, tokens.batch_size)):
                    original = None if pixels is None else pixels[i]
                    _save(_draw(tok, tokens.unbind()[i], original, place, words), path, force=force)
                    record_file(image=source.path, out=path)
                    if verbose or total == 1:
                        console.print(f"{printable(source.path)} -> {', '.join(map(printable, drawn_paths(path)))}")
            advance()
        if total > 1:
            console.print(f"{failures.done} of {failures.tried} files -> {printable(out)}")


def drawn_paths(path: Path) -> list[Path]:
    """The three files of one image, of which `path` is the first."""
    return [path.with_name(path.name.removesuffix(_MAPS) + suffix) for suffix in (_MAPS, _PREFIXES, _TOKENS)]


def _paths(path: Path, count: int) -> list[Path]:
    plain = path.with_name(path.name.removesuffix(_MAPS) + ".png")
    return [numbered.with_name(numbered.name.removesuffix(".png") + _MAPS) for numbered in number_paths(plain, count)]


def _read_place(at: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", at)
    if found is None:
        raise ConfigError(f"expected --at as column and row of a pixel, got {at!r}: write e.g. --at 120,80")
    return int(found[1]), int(found[2])


def _tokens_of(
    tok: PyramidTokenizer, read: TokenPyramid | Tensor, levels: int | None
) -> tuple[Tensor | None, TokenPyramid]:
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

    if isinstance(read, TokenPyramid):
        return None, cut_levels(read, levels)
    return read, tok.encode(read, levels=levels)


def _draw(
    tok: PyramidTokenizer,
    tokens: TokenPyramid,
    original: Tensor | None,
    place: tuple[int, int] | None,
    words: NearestWords,
) -> list[Image.Image]:
    from pyramid_tokenizer.images.pixels import to_pil
    from pyramid_tokenizer.visualize import contributions as parts
    from pyramid_tokenizer.visualize.maps import map_sheet
    from pyramid_tokenizer.visualize.prefixes import prefix_strip

    strides = tok.quantizer.strides
    shown = to_pil(tok.decode(tokens) if original is None else original)[0]
    title = "decoded" if original is None else "image"
    cells = parts.strongest_cells(tok, tokens) if place is None else parts.cells_at(tokens, *place, strides=strides)
    chosen = [parts.contribution(tok, tokens, level, *cell) for level, cell in enumerate(cells)]
    captions = [
        f"id {one.id}, row {one.row}, column {one.column}\n{words.caption(one.level, one.id)}" for one in chosen
    ]
    return [
        map_sheet(tokens, shown, strides=strides, title=title),
        prefix_strip(tok, tokens, original),
        parts.contribution_sheet(chosen, strides, captions),
    ]


def _save(drawn: list[Image.Image], path: Path, *, force: bool) -> None:
    from pyramid_tokenizer.cli.files import check_absent
    from pyramid_tokenizer.images.files import save_image

    paths = drawn_paths(path)
    if not force:
        check_absent(paths)
    path.parent.mkdir(parents=True, exist_ok=True)
    for image, name in zip(drawn, paths, strict=True):
        save_image(image, name)

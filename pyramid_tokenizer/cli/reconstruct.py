"""`reconstruct`: shows images beside what every prefix of their tokens decodes to."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyramid_tokenizer.cli.existing import images_are_done
from pyramid_tokenizer.cli.files import find_images, plan_outputs
from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.json_output import record_file
from pyramid_tokenizer.cli.limits import limits_of
from pyramid_tokenizer.cli.options import (
    Device,
    EncodedLevels,
    Force,
    Images,
    ListPassedOver,
    MaxTokens,
    Model,
    Quality,
    Size,
    SkipExisting,
    TargetPsnr,
    Verbose,
    Window,
)
from pyramid_tokenizer.cli.terminal import (
    Failures,
    load_tokenizer,
    make_console,
    make_table,
    show_progress,
    tell_passed_over,
)

if TYPE_CHECKING:
    from rich.table import Table

    from pyramid_tokenizer.cli.prefixes import Prefix

Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="The folder for the results, or a file name ending in .png for a single image.",
    ),
]
_FIGURES = "levels", "tokens", "bits/px", "PSNR dB", "SSIM"


def reconstruct(
    images: Images,
    *,
    model: Model = "tiny",
    out: Out = Path("reconstructed"),
    size: Size = None,
    levels: EncodedLevels = None,
    max_tokens: MaxTokens = None,
    target_psnr: TargetPsnr = None,
    quality: Quality = None,
    window: Window = None,
    device: Device = "cpu",
    list_passed_over: ListPassedOver = False,
    skip_existing: SkipExisting = False,
    verbose: Verbose = False,
    force: Force = False,
) -> None:
    """Compare images with what their tokens decode to.

    For each image it writes a PNG with the original beside every prefix of levels, and shows PSNR and SSIM (on 8-bit pixels,
    over the whole image) in a table, for several images their means. With a limit such as --quality it also shows where the
    image has tokens of which levels. Images that cannot be read are skipped and listed at the end, and the exit code is then 1.
    """
    from pyramid_tokenizer.cli.prefixes import decode_prefixes, prefix_sheet
    from pyramid_tokenizer.images.files import save_image
    from pyramid_tokenizer.images.pixels import to_pil
    from pyramid_tokenizer.images.read import read_image
    from pyramid_tokenizer.visualize import overlay_tokens

    limits = limits_of(levels, window_px=window, max_tokens=max_tokens, target_psnr=target_psnr, quality=quality)
    sources = find_images(images)
    outputs = plan_outputs(sources, out=out, suffix=".png", force=force or skip_existing)
    tok = load_tokenizer(model, device)
    limits.check_model(tok)
    strides = tok.quantizer.strides
    console = make_console()
    tell_passed_over(console, sources, by_name=list_passed_over)
    table = make_table(None, "image", *_FIGURES)
    every: list[list[Prefix]] = []
    with Failures(len(sources), sources.unlisted) as failures:
        with show_progress(console, "reconstruct", len(sources)) as advance:
            for source, output in zip(sources, outputs, strict=True):
                with failures.item(source.path):
                    if skip_existing and images_are_done([output], force=force):
                        failures.keep()
                        advance()
                        continue
                    pixels = read_image(source.path, size=size)
                    tokens = limits.encode(tok, pixels, name=source.path)
                    prefixes = decode_prefixes(tok, tokens, pixels)
                    output.parent.mkdir(parents=True, exist_ok=True)
                    cells = [overlay_tokens(pixels, tokens, strides=strides, legend=False)] if tokens.is_sparse else []
                    save_image(prefix_sheet(to_pil(pixels), [prefixes], cells=cells), output)
                    record_file(image=source.path, out=output, **_figures(prefixes[-1]))
                    if verbose or len(sources) == 1:
                        console.print(f"{printable(source.path)} -> {printable(output)}")
                        _add_rows(table, printable(source.name), prefixes)
                    every.append(prefixes)
                advance()
        failures.tell_kept(console)
        if table.row_count:
            console.print()
            console.print(table, soft_wrap=False)
        if len(sources) > 1:
            _tell_means(console, every)
            console.print(f"{failures.done} of {failures.tried} images -> {printable(out)}")


def _add_rows(table: Table, name: str, prefixes: Sequence[Prefix]) -> None:
    for prefix in prefixes:
        table.add_row(name if prefix.levels == 1 else "", str(prefix.levels), *prefix.cells)


def _tell_means(console: Any, every: Sequence[Sequence[Prefix]]) -> None:
    """Shows the mean of each prefix over the images that have it."""
    from pyramid_tokenizer.cli.prefixes import mean_cells

    table = make_table("means", "images", *_FIGURES)
    for count in range(max(map(len, every), default=0)):
        same = [prefixes[count] for prefixes in every if len(prefixes) > count]
        table.add_row(f"{len(same):,}", str(count + 1), *mean_cells(same))
    if table.row_count:
        console.print(table, soft_wrap=False)


def _figures(prefix: Prefix) -> dict[str, float]:
    """The figures of all levels for --json, which has no infinite numbers."""
    figures = {"tokens": prefix.num_tokens, "bits_per_pixel": prefix.bits_per_pixel, "psnr": prefix.psnr}
    figures |= {} if prefix.ssim is None else {"ssim": prefix.ssim}
    return {name: value for name, value in figures.items() if isfinite(value)}

"""`decode`: turns token files into PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyramid_tokenizer.cli.existing import images_are_done
from pyramid_tokenizer.cli.files import TOKEN_SUFFIX, check_absent, find_tokens, number_paths, plan_outputs
from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.json_output import record_file
from pyramid_tokenizer.cli.options import Device, Force, Levels, ListPassedOver, Model, SkipExisting, Verbose
from pyramid_tokenizer.cli.terminal import (
    Failures,
    count_levels,
    cut_levels,
    describe_size,
    load_tokenizer,
    make_console,
    show_progress,
    tell_passed_over,
)

Files = Annotated[
    list[str],
    typer.Argument(metavar="TOKENS", help=f"Token files, folders of {TOKEN_SUFFIX} files, or quoted glob patterns."),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="The folder for the results, or a file name ending in .png for a single token file.",
    ),
]
Scale = Annotated[
    float,
    typer.Option(
        metavar="SCALE",
        help="0.5, 0.25 or 0.125 for thumbnails of that scale, which cost a fraction of a full decode and look softer.",
    ),
]


def decode(
    tokens: Files,
    *,
    model: Model = "tiny",
    levels: Levels = None,
    scale: Scale = 1.0,
    out: Out = Path("decoded"),
    device: Device = "cpu",
    list_passed_over: ListPassedOver = False,
    skip_existing: SkipExisting = False,
    verbose: Verbose = False,
    force: Force = False,
) -> None:
    """Decode token files into one PNG per image.

    photo.tokens becomes decoded/photo.png; a file with several images becomes photo-0.png, photo-1.png, ... The model must
    be the one that made the tokens. Files that cannot be decoded are skipped and listed at the end, and the exit code is then
    1.
    """
    from pyramid_tokenizer.decoder.thumbnails import reduction_of
    from pyramid_tokenizer.images.files import save_image
    from pyramid_tokenizer.images.pixels import to_pil
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

    reduction = reduction_of(scale)
    sources = find_tokens(tokens)
    outputs = plan_outputs(sources, out=out, suffix=".png", force=force or skip_existing)
    tok = load_tokenizer(model, device)
    console = make_console()
    tell_passed_over(console, sources, by_name=list_passed_over)
    num_images = 0
    with (
        Failures(len(sources), sources.unlisted) as failures,
        show_progress(console, "decode", len(sources)) as advance,
    ):
        for source, output in zip(sources, outputs, strict=True):
            with failures.item(source.path):
                pyramid = cut_levels(TokenPyramid.load(source.path), levels)
                height, width = (-(-side // reduction) for side in pyramid.image_size)
                size = height, width
                paths = number_paths(output, pyramid.batch_size)
                ours = pyramid.fingerprint == tok.fingerprint  # other tokens are an error, which decoding tells
                if skip_existing and ours and images_are_done(paths, force=force, size=size):
                    failures.keep()
                    advance()
                    continue
                if not (force or skip_existing):
                    check_absent(paths)
                images = to_pil(tok.decode(pyramid, scale=scale))
                output.parent.mkdir(parents=True, exist_ok=True)
                for image, path in zip(images, paths, strict=True):
                    save_image(image, path)
                    num_images += 1
                    record_file(tokens=source.path, out=path, levels=len(pyramid))
                    if not (verbose or len(sources) == 1):
                        continue
                    console.print(
                        f"{printable(source.path)}: {count_levels(len(pyramid))}, {describe_size(size)} px, "
                        f"{pyramid.bits_per_pixel:.3f} bits per pixel -> {printable(path)}"
                    )
            advance()
        failures.tell_kept(console)
        if len(sources) > 1:
            console.print(f"{failures.done} of {failures.tried} files, {num_images:,} images -> {printable(out)}")

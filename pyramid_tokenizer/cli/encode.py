"""`encode`: turns images into token files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.cli.existing import tokens_are_done
from pyramid_tokenizer.cli.files import TOKEN_SUFFIX, Source, find_images, plan_outputs
from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.json_output import record_file
from pyramid_tokenizer.cli.limits import Limits, limits_of
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
    concerns_one_file,
    count_tokens,
    describe_size,
    load_tokenizer,
    make_console,
    show_progress,
    tell_passed_over,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help=f"The folder for the results, or a file name ending in {TOKEN_SUFFIX} for a single image.",
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="How many images are read into memory at a time; those of equal size are encoded together.",
    ),
]


def encode(
    images: Images,
    *,
    model: Model = "tiny",
    out: Out = Path("tokens"),
    size: Size = None,
    levels: EncodedLevels = None,
    max_tokens: MaxTokens = None,
    target_psnr: TargetPsnr = None,
    quality: Quality = None,
    window: Window = None,
    device: Device = "cpu",
    batch_size: BatchSize = 1,
    list_passed_over: ListPassedOver = False,
    skip_existing: SkipExisting = False,
    verbose: Verbose = False,
    force: Force = False,
) -> None:
    """Encode images into one token file each.

    photo.jpg becomes tokens/photo.tokens; the subfolders of a folder are kept. Images that cannot be read are skipped and
    listed at the end, and the exit code is then 1. With a limit such as --quality each image gets the tokens that are worth
    their bits, and its finer levels may be sparse.
    """
    limits = limits_of(levels, window_px=window, max_tokens=max_tokens, target_psnr=target_psnr, quality=quality)
    sources = find_images(images)
    outputs = plan_outputs(sources, out=out, suffix=TOKEN_SUFFIX, force=force or skip_existing)
    tok = load_tokenizer(model, device)
    limits.check_model(tok)
    console = make_console()
    tell_passed_over(console, sources, by_name=list_passed_over)
    jobs = list(zip(sources, outputs, strict=True))
    total_tokens, total_bytes = 0, 0

    def is_done(source: Source, output: Path) -> bool:
        return skip_existing and tokens_are_done(
            output, tok=tok, image=source.path, size=size, limits=limits, force=force
        )

    with Failures(len(jobs), sources.unlisted) as failures, show_progress(console, "encode", len(jobs)) as advance:
        for start in range(0, len(jobs), batch_size):
            readable = _read(jobs[start : start + batch_size], size, failures, is_done)
            for source, output, tokens in _encode(tok, readable, limits, failures):
                with failures.guard(source.path):
                    output.parent.mkdir(parents=True, exist_ok=True)
                    tokens.save(output)
                    counts = {"tokens": tokens.num_tokens, "bytes": output.stat().st_size}
                    record_file(image=source.path, out=output, **counts, bits_per_pixel=tokens.bits_per_pixel)
                    if verbose or len(jobs) == 1:
                        console.print(_summary(source, tokens, output))
                    total_tokens += tokens.num_tokens
                    total_bytes += output.stat().st_size
            for _ in jobs[start : start + batch_size]:
                advance()
        failures.tell_kept(console)
        if len(jobs) > 1:
            figures = f"{total_tokens:,} tokens, {total_bytes:,} bytes"
            console.print(f"{failures.done} of {failures.tried} images, {figures} -> {printable(out)}")


def _read(
    jobs: Sequence[tuple[Source, Path]],
    size: int | None,
    failures: Failures,
    is_done: Callable[[Source, Path], bool],
) -> list[tuple[Source, Path, Tensor]]:
    from pyramid_tokenizer.images.read import read_image

    readable = []
    for source, output in jobs:
        with failures.item(source.path):
            if is_done(source, output):
                failures.keep()
            else:
                readable.append((source, output, read_image(source.path, size=size)))
    return readable


def _encode(
    tok: PyramidTokenizer, readable: Sequence[tuple[Source, Path, Tensor]], limits: Limits, failures: Failures
) -> Iterator[tuple[Source, Path, TokenPyramid]]:
    """Encodes the images together; if one of them makes that fail, each by itself, so that the others are encoded."""
    try:
        names = [source.path for source, _, _ in readable]
        many = limits.encode_many(tok, [pixels for _, _, pixels in readable], names=names)
    except Exception as error:
        if not concerns_one_file(error):
            raise
        for source, output, pixels in readable:
            with failures.guard(source.path):
                yield source, output, limits.encode(tok, pixels, name=source.path)
        return
    for (source, output, _), tokens in zip(readable, many, strict=True):
        yield source, output, tokens


def _summary(source: Source, tokens: TokenPyramid, output: Path) -> str:
    return (
        f"{printable(source.path)}: {describe_size(tokens.image_size)} px, {count_tokens(tokens)} tokens, "
        f"{output.stat().st_size:,} bytes, {tokens.bits_per_pixel:.3f} bits per pixel -> {printable(output)}"
    )

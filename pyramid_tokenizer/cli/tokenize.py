"""`tokenize`: a source of images -> a dataset of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyramid_tokenizer.cli.group import printable, tell_error
from pyramid_tokenizer.cli.limits import limits_of
from pyramid_tokenizer.cli.options import EncodedLevels, MaxTokens, Model, Quality, Size, TargetPsnr, Window
from pyramid_tokenizer.cli.terminal import make_console
from pyramid_tokenizer.cli.training_options import Column, Source

if TYPE_CHECKING:
    from rich.console import Console

    from pyramid_tokenizer.datasets import Estimate, TokenizeReport

SHARD_IMAGES = 1024


class Engine(StrEnum):
    """Choices of --engine."""

    local = "local"
    ray = "ray"


Out = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Where the dataset is written: a folder, or an address of fsspec such as s3://bucket/tokens. An interrupted run "
        "goes on by the same command.",
    ),
]
Columns = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Columns of the source that come along, separated by commas, for example caption,label. In tar shards: the endings "
        "of text members, for example txt,json. Of image files: label, the name of the folder that holds each.",
    ),
]
Devices = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help='Where the model runs: "cpu", "cuda", or several GPUs as "cuda:0,1"; with Ray "cuda" gives each actor a GPU.',
    ),
]
EngineChoice = Annotated[
    Engine,
    typer.Option(
        metavar="local|ray",
        help="Who encodes: processes of this machine, or actors on the machines of a Ray cluster, which RAY_ADDRESS names "
        "or which runs here.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Processes that encode; 0 encodes in this one. Without it: one per core, or one per GPU; with Ray, of the cluster.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Images of one size that are encoded together. It is recorded, for a few ids depend on it by rounding. Without it: "
        "1 on a CPU, 8 on a GPU.",
    ),
]
ShardImages = Annotated[int, typer.Option(metavar="N", min=1, help="Images per Parquet file.")]
JpegDraft = Annotated[
    bool,
    typer.Option(
        "--jpeg-draft",
        help="With --size: decode large JPEG files at a fraction of their size. Faster, and slightly other pixels; recorded.",
    ),
]
GoOn = Annotated[
    bool,
    typer.Option(
        "--go-on-if-changed",
        help="If images were added to the source or removed from it since the run began: leave out new ones and list those that "
        "are gone in errors.jsonl. Without it that is an error.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Count the images, encode a few, tell how much time and space all would take; write nothing."
    ),
]


def tokenize(
    *,
    images: Source,
    out: Out = "tokens",
    model: Model = "tiny",
    columns: Columns = "",
    column: Column = None,
    size: Size = None,
    levels: EncodedLevels = None,
    max_tokens: MaxTokens = None,
    target_psnr: TargetPsnr = None,
    quality: Quality = None,
    window: Window = None,
    workers: Workers = None,
    device: Devices = "cpu",
    engine: EngineChoice = Engine.local,
    batch_size: BatchSize = None,
    shard_images: ShardImages = SHARD_IMAGES,
    jpeg_draft: JpegDraft = False,
    go_on_if_changed: GoOn = False,
    dry_run: DryRun = False,
) -> None:
    """Encode a whole source of images into a dataset of tokens.

    The dataset is a folder of Parquet files with a manifest. A run may end at any time, in any way: the same command goes on from
    the files that are whole. Images that cannot be read are listed in errors.jsonl, and the exit code is then 1. With a limit
    such as --quality each image gets the tokens that are worth their bits, and its finer levels may be sparse.
    """
    from pyramid_tokenizer import datasets

    console = make_console()
    options: dict[str, Any] = {
        "model": model,
        "columns": tuple(name.strip() for name in columns.split(",") if name.strip()),
        "column": column,
        "size": size,
        **limits_of(levels, window_px=window, max_tokens=max_tokens, target_psnr=target_psnr, quality=quality).options,
        "workers": workers,
        "device": device,
        "engine": engine.value,
        "batch_size": batch_size,
        "shard_images": shard_images,
        "jpeg_draft": jpeg_draft,
        "on_change": "go_on" if go_on_if_changed else "refuse",
    }
    if dry_run:
        _tell_estimate(console, datasets.estimate(images, **options))
        return
    with _show_images(console) as progress:
        report = datasets.tokenize(images, out, progress=progress, **options)
    _tell_report(console, report)
    if report.missed:
        typer.echo(
            f"warning: {report.missed:,} of {report.rows:,} images have less than {target_psnr:g} dB with all their tokens, "
            "which they keep",
            err=True,
        )
    if report.errors:
        tell_error(
            f"{report.errors:,} of {report.images:,} images could not be encoded; errors.jsonl in {report.out} says which and why"
        )
        raise typer.Exit(1)


@contextmanager
def _show_images(console: Console) -> Iterator[Callable[[int, int], None] | None]:
    """Shows a progress bar on a terminal; the block calls the function with the images that are done and all of them."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not console.is_terminal:
        yield None
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("tokenize", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _tell_estimate(console: Console, found: Estimate) -> None:
    console.print(
        f"{found.images:,} images, {found.unreadable} of a sample of {found.sampled} cannot be read\n"
        f"an image: {1e3 * found.reading_seconds:.1f} ms to read, {1e3 * found.encoding_seconds:.1f} ms to encode, "
        f"{found.tokens_per_image:,.0f} tokens, {found.bytes_per_image:,.0f} bytes\n"
        f"all of them, if nothing else runs: {in_time(found.seconds)} at {found.images_per_second:,.1f} images/s, "
        f"{found.bytes / 1e6:,.1f} MB in {found.shards:,} files"
    )


def _tell_report(console: Console, report: TokenizeReport) -> None:
    before = report.shards - report.new_shards
    console.print(
        f"{report.rows:,} of {report.images:,} images in {report.shards:,} files"
        + (f", {before:,} of which were there already" if before else "")
        + f": {report.bytes:,} bytes, tokens at {report.fixed_rate:.2f} x their fixed rate -> {printable(report.out)}"
    )


def in_time(seconds: float) -> str:
    """Formats a duration.

    Example:
        >>> in_time(42), in_time(4000), in_time(400000)
        ('42 s', '1 h 7 min', '4 d 15 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"

"""`evaluate reconstruction` and `evaluate semantics`: what tokens keep of images, and what they know of words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyramid_tokenizer.cli.files import check_absent
from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.options import Device, Force, Model
from pyramid_tokenizer.cli.terminal import load_tokenizer, make_console, make_table, show_progress, show_stages
from pyramid_tokenizer.cli.words import TextCache, cache_folder, read_names
from pyramid_tokenizer.errors import DataError

Images = Annotated[
    str,
    typer.Option("--images", metavar="SOURCE", help="A folder, list, archive or table of images; see docs/sources.md."),
]
Folder = Annotated[
    Path, typer.Option("--images", metavar="FOLDER", help="The folder of the images that --labels names.")
]
Labels = Annotated[
    Path,
    typer.Option(
        metavar="CSV",
        help='A table with the columns "file" and "label" or "caption" or both; other columns are ignored. Several rows of a '
        "file are several captions.",
    ),
]
NamesFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The names to choose from, one a line, the labels among them. Without it: the different labels.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder for the report.")]
Side = Annotated[
    int, typer.Option("--size", metavar="PIXELS", min=16, help="The side of the square crops that are measured.")
]
ShortSide = Annotated[
    int, typer.Option("--size", metavar="PIXELS", min=1, help="Resize the short side of the images to this first.")
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Measure only N images, spread evenly over the source.")
]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="How many images are encoded together.")]
NoCodecs = Annotated[
    bool, typer.Option("--no-codecs", help="Leave out JPEG, WebP and AVIF, which take most of the time.")
]


def reconstruction(
    *,
    images: Images,
    out: Out = Path("report"),
    model: Model = "tiny",
    size: Side = 256,
    limit: Limit = None,
    batch_size: BatchSize = 8,
    no_codecs: NoCodecs = False,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Measure what tokens keep of images, beside image codecs.

    Writes report.json, report.md, plots and a sheet: PSNR, SSIM and MS-SSIM of every prefix of levels, of tokens by content and
    of JPEG, WebP and AVIF; a distance of the backbone's embeddings; bits per pixel, and the use of the codebooks. LPIPS and rFID
    are added where their weights are on this machine. Two runs give the same figures to the last digit.
    """
    from pyramid_tokenizer.evaluation.codecs import CODECS
    from pyramid_tokenizer.evaluation.crops import crop_batches
    from pyramid_tokenizer.evaluation.plots import check_plots
    from pyramid_tokenizer.evaluation.reconstruction import evaluate_reconstruction
    from pyramid_tokenizer.evaluation.report_of import reconstruction_report
    from pyramid_tokenizer.images import open_images

    out = check_out(out, force=force)
    check_plots()
    source = open_images(images)
    indices = spread(len(source), limit)
    tok = load_tokenizer(model, device)
    console, skipped = make_console(), list[str]()
    with show_progress(console, "evaluate", len(indices)) as advance:
        kind: dict[str, Any] = {"side": size, "batch_size": batch_size, "indices": indices}
        batches = crop_batches(source, **kind, skipped=skipped, advance=advance)
        result = evaluate_reconstruction(tok, batches, codecs=() if no_codecs else tuple(CODECS))
    result.data["left_out"] += [f"an image: {error}" for error in skipped]
    facts = facts_of(model, tok.fingerprint, data=Path(images).name, device=device)
    report = reconstruction_report(result, facts)
    table = make_table(None, "what", "bits/px", "PSNR dB")
    for row in result.data["rows"]:
        rate = row.get("bits_per_pixel")
        table.add_row(
            row["what"], "-" if rate is None else f"{rate:.3f}", "-" if row["psnr"] is None else f"{row['psnr']:.2f}"
        )
    console.print(table, soft_wrap=False)
    for line in result.data["left_out"]:
        console.print(f"left out: {printable(line)}")
    tell_written(console, report.write(out))


def semantics(
    *,
    images: Folder,
    labels: Labels,
    names_file: NamesFile = None,
    out: Out = Path("report"),
    model: Model = "tiny",
    size: ShortSide = 256,
    device: Device = "cpu",
    text_cache: TextCache = "auto",
    force: Force = False,
) -> None:
    """Measure what tokens know of names and captions, beside the backbone.

    Writes report.json, report.md and a plot: zero-shot classification of the images by their labels, retrieval by captions,
    and the share of pixels that get the same name from tokens as from the backbone's dense features.
    """
    from pyramid_tokenizer.evaluation.plots import check_plots
    from pyramid_tokenizer.evaluation.report import with_interval
    from pyramid_tokenizer.evaluation.report_of import semantics_report
    from pyramid_tokenizer.evaluation.semantics import evaluate_semantics, read_labels
    from pyramid_tokenizer.text import TextEncoder

    out = check_out(out, force=force)
    check_plots()
    labelled = read_labels(labels.expanduser(), images.expanduser())
    names = None if names_file is None else read_names(None, names_file, option="--names")
    tok = load_tokenizer(model, device)
    console = make_console()
    with show_stages(console) as stages:
        tok.text = TextEncoder(tok.backbone, cache_dir=cache_folder(text_cache), progress=stages.share("texts"))
        data = evaluate_semantics(tok, labelled, names=names, size=size, progress=stages.begin)
    facts = facts_of(model, tok.fingerprint, data=labels.name, device=device)
    table = make_table(None, "what", "from", "% (95 % interval)")
    table.columns[1].justify = "left"
    for row in data["rows"]:
        table.add_row(row["what"], row["from"], with_interval(row["value"], row["interval"], 1, scale=100))
    console.print(table, soft_wrap=False)
    tell_written(console, semantics_report(data, facts).write(out))


def spread(count: int, limit: int | None) -> list[int]:
    """The indices of `limit` images, spread evenly over the set; all indices for None.

    Example:
        >>> spread(10, 4), spread(3, 4)
        ([0, 2, 5, 7], [0, 1, 2])
    """
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def check_out(out: Path, *, force: bool) -> Path:
    """The folder of a report, after a check that there is none in it, or that it may be replaced."""
    from pyramid_tokenizer.evaluation.report import JSON, MARKDOWN

    out = out.expanduser()
    if out.exists() and not out.is_dir():
        raise DataError(f"expected a folder as --out, got the file {str(out)!r}: give another name")
    if not force:
        check_absent([out / JSON, out / MARKDOWN])
    return out


def facts_of(model: str, fingerprint: str, *, data: str, device: str) -> dict[str, str]:
    """What every report says of the run, without paths of this machine."""
    import datetime
    import os
    import platform

    import torch

    threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}"
    machine = f"{os.cpu_count()} cores ({platform.machine()}), {threads}"
    name = Path(model).name if Path(model).is_dir() else model
    date = datetime.date.today().isoformat()
    return {"model": name, "fingerprint": fingerprint, "data": data, "machine": machine, "date": date}


def tell_written(console: Any, paths: list[Path]) -> None:
    """Says where a report is."""
    console.print(f"\n-> {', '.join(printable(path) for path in paths)}")

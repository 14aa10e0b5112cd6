"""`evaluate`: `evaluate segmentation` measures masks and the semantics of tokens on a labelled set; see `evaluate_images` too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyramid_tokenizer.cli.evaluate_images import check_out, facts_of, reconstruction, semantics, spread, tell_written
from pyramid_tokenizer.cli.evaluation_report import (
    check_json,
    class_table,
    score_table,
    show_table,
    token_table,
    write_json,
)
from pyramid_tokenizer.cli.json_output import with_json
from pyramid_tokenizer.cli.options import Device, Model, Size
from pyramid_tokenizer.cli.segment import Background, Mode, ModeChoice, Threshold
from pyramid_tokenizer.cli.terminal import load_segmenter, make_console, show_progress, warnings_as_lines
from pyramid_tokenizer.cli.words import TextCache, cache_folder, embed_names, read_background

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console
    from torch import Tensor

    from pyramid_tokenizer.evaluation import SegmentationScores, TokenFigures
    from pyramid_tokenizer.images.labelled import Sample, SegmentationSet
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})

SHOWN = 4
"""Images of the sheet of a report."""

Data = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="The folder of the labelled set, laid out as its protocol demands; see docs/segmentation.md.",
    ),
]
Protocol = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help='The evaluation protocol, such as "voc-20" or "ade20k-150"; "folder" is a set of your own: images/, labels/*.png '
        "and classes.txt.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The part of the set to measure. Without it: the part that papers report."),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file of class names to use instead of the set's own, one per line in the order of the labels.",
    ),
]
Window = Annotated[
    int | None,
    typer.Option(metavar="PIXELS", min=1, help="Average the scores of overlapping windows with this side."),
]
WindowStride = Annotated[
    int | None,
    typer.Option(metavar="PIXELS", min=1, help="The step from one window to the next. Without it: half a window."),
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Measure only N images, spread evenly over the set.")
]
PerClass = Annotated[bool, typer.Option("--per-class", help="Also show the IoU of every class.")]
TokenSemantics = Annotated[
    bool,
    typer.Option(
        "--token-semantics",
        help="Also show, for every level, the purity of its codes and the mIoU of masks that give every code its most frequent "
        "class; codes are labelled on the even images and measured on the odd ones.",
    ),
]
Json = Annotated[Path | None, typer.Option(metavar="FILE", help="A file to which all figures are also written.")]
Report = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="A folder for a report: report.json with all figures, report.md, a plot of the classes and a sheet of masks.",
    ),
]
Replace = Annotated[
    bool, typer.Option("--force", help="Replace results that exist; without this option that is an error.")
]


@app.callback()
def evaluate() -> None:
    """Measure a model on your images."""


app.command()(with_json(reconstruction))
app.command()(with_json(semantics))


@app.command()
def segmentation(
    *,
    data: Data,
    protocol: Protocol,
    model: Model = "tiny",
    split: Split = None,
    classes: Classes = None,
    mode: ModeChoice = Mode.auto,
    background: Background = None,
    threshold: Threshold = None,
    size: Size = None,
    window: Window = None,
    window_stride: WindowStride = None,
    limit: Limit = None,
    token_semantics: TokenSemantics = False,
    per_class: PerClass = False,
    json: Json = None,
    out: Report = None,
    device: Device = "cpu",
    text_cache: TextCache = "auto",
    force: Replace = False,
) -> None:
    """Measure masks on a labelled set.

    The images are segmented by the class names of the set. The command shows mIoU, fwIoU, pixel accuracy and mean class
    accuracy, each with its 95 % bootstrap interval over images.
    """
    rule: dict[str, Any] = {"background": read_background(background, threshold), "threshold": threshold}
    check_json(json, force=force)
    from pyramid_tokenizer.evaluation import check_background, label_images
    from pyramid_tokenizer.evaluation.plots import check_plots
    from pyramid_tokenizer.evaluation.report_of import segmentation_report
    from pyramid_tokenizer.evaluation.segmenting import protocol_words
    from pyramid_tokenizer.images.labelled import open_segmentation_set

    if out is not None:
        out = check_out(out, force=force)
        check_plots()
    labelled = open_segmentation_set(data.expanduser(), protocol, split=split, classes=classes and classes.expanduser())
    check_background(labelled.protocol, **rule)
    seg = load_segmenter(model, device)
    used = mode.value if mode is not Mode.auto else "lookup" if seg.head is None else "decoder"
    if window is not None and window_stride is None:
        window_stride = max(1, window // 2)
    view: dict[str, Any] = {"short_side_px": size, "window_px": window, "window_stride_px": window_stride}
    predict = label_images(seg, labelled.protocol, **rule, mode=used, **view)
    console, indices = make_console(), spread(len(labelled), limit)
    names, words = protocol_words(labelled.protocol, background=rule["background"])
    embed_names(seg.tok, names, console, background=words, text_cache=cache_folder(text_cache))
    result = _measure(predict, labelled, indices, console)
    present = int((result.confusion.counts.sum(1) > 0).sum())
    console.print(f"{labelled.protocol.name}: {labelled.protocol.description}")
    console.print(
        f"{len(indices):,} of {len(labelled):,} images, {present} of {labelled.num_classes} classes in their labels"
    )
    console.print(_describe(model, used, view, **rule))
    show_table(console, score_table(result))
    if per_class:
        show_table(console, class_table(result))
    report: dict[str, Any] = {
        "model": model,
        "fingerprint": seg.tok.fingerprint,
        "data": str(data),
        "protocol": protocol,
    }
    report |= {"split": split or labelled.protocol.layout.default_split, "limit": limit}
    report |= {"mode": used, **view, **rule, **result.to_dict()}
    if token_semantics:
        levels = _measure_tokens(seg.tok, labelled, indices, size, console)
        console.print("\nsemantics of the codes, labelled on the even images; mIoU and accuracy on the odd ones")
        show_table(console, token_table(levels))
        report["token_semantics"] = [level.to_dict() for level in levels]
    if json is not None:
        write_json(json, report)
        console.print(f"\nall figures -> {json}")
    if out is not None:
        facts = facts_of(model, seg.tok.fingerprint, data=data.name, device=device)
        facts |= {
            "protocol": f"{protocol}: {labelled.protocol.description}",
            "seen": _describe(model, used, view, **rule),
        }
        report = {
            name: value for name, value in report.items() if name not in ("model", "fingerprint", "data", "protocol")
        }
        sheet = _mask_sheet(predict, labelled, indices)
        tell_written(console, segmentation_report(report, facts, sheet).write(out))


def _mask_sheet(predict: Callable[[Tensor], Tensor], labelled: SegmentationSet, indices: Sequence[int]) -> Image.Image:
    """A row for each of a few images: the image, its labels and its masks, in the same colours."""
    from PIL import ImageOps

    from pyramid_tokenizer.images.labelled.labels import NO_CLASS
    from pyramid_tokenizer.images.pixels import to_pil
    from pyramid_tokenizer.images.read import read_image
    from pyramid_tokenizer.visualize import contact_sheet, overlay

    protocol, rows = labelled.protocol, []
    for place in spread(len(indices), SHOWN):
        sample = labelled[indices[place]]
        image = read_image(sample.image)
        masks = predict(image).cpu()
        if protocol.background_class is not None:
            masks = masks.masked_fill(masks == NO_CLASS, protocol.background_class)
        names = protocol.display_names
        row = [to_pil(image)[0], *(overlay(image, labels, names) for labels in (sample.labels, masks))]
        height = max(one.height for one in row)  # legends differ in height: photos stand side by side all the same
        rows.append([ImageOps.pad(one, (one.width, height), color="white", centering=(0, 0)) for one in row])
    return contact_sheet(rows, column_titles=["image", "labels", "masks"])


def _measure(
    predict: Callable[[Tensor], Tensor], labelled: SegmentationSet, indices: Sequence[int], console: Console
) -> SegmentationScores:
    from pyramid_tokenizer.evaluation import evaluate_segmentation
    from pyramid_tokenizer.images.labelled.findings import LARGEST_IGNORED_SHARE

    by_design = labelled.protocol.background == "ignored"
    with warnings_as_lines(), show_progress(console, "segment", len(indices)) as advance:
        return evaluate_segmentation(
            predict,
            _samples(labelled, indices, advance),
            num_classes=labelled.num_classes,
            names=labelled.protocol.display_names,
            none_class=labelled.protocol.background_class,
            largest_ignored_share=1.0 if by_design else LARGEST_IGNORED_SHARE,
        )


def _measure_tokens(
    tok: PyramidTokenizer, labelled: SegmentationSet, indices: Sequence[int], size: int | None, console: Console
) -> tuple[TokenFigures, ...]:
    from pyramid_tokenizer.evaluation import token_figures

    with show_progress(console, "tokens", len(indices)) as advance:
        samples = _samples(labelled, indices, advance)
        return token_figures(tok, samples, num_classes=labelled.num_classes, short_side_px=size)


def _samples(labelled: SegmentationSet, indices: Sequence[int], advance: Callable[[], None]) -> Iterator[Sample]:
    for index in indices:
        yield labelled[index]
        advance()


def _describe(
    model: str,
    mode: str,
    view: dict[str, int | None],
    *,
    background: Sequence[str] | None = None,
    threshold: float | None = None,
) -> str:
    size, window, stride = view.values()
    seen = ["" if size is None else f"short side {size} px"]
    seen += ["" if window is None else f"windows of {window} px every {stride}"]
    seen += ["" if background is None else f"background: {', '.join(background)}"]
    seen += ["" if threshold is None else f"background: scores below {threshold}"]
    return ", ".join([f"model {model}", f"mode {mode}", *filter(None, seen)])

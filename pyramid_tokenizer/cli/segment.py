"""`segment`: finds words in images or token files, and writes overlays and label maps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.cli.existing import images_are_done
from pyramid_tokenizer.cli.files import OutputError, Source, check_absent, number_paths, plan_outputs
from pyramid_tokenizer.cli.group import printable
from pyramid_tokenizer.cli.json_output import record_file
from pyramid_tokenizer.cli.options import Device, Force, ListPassedOver, Model, Size, SkipExisting, Verbose
from pyramid_tokenizer.cli.terminal import (
    Failures,
    describe_size,
    load_segmenter,
    make_console,
    show_progress,
    tell_passed_over,
)
from pyramid_tokenizer.cli.words import (
    Images,
    Inputs,
    TextCache,
    TokenFiles,
    cache_folder,
    embed_names,
    find_inputs,
    read_background,
    read_names,
)
from pyramid_tokenizer.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from pyramid_tokenizer.segmentation.segmenter import SegmentationMap
    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

MAX_CLASSES = 2**16 - 1
"""The most classes of a label map in a PNG, which has 16 bits at most; its last value is the background."""


class Mode(StrEnum):
    """The choices of --mode."""

    auto = "auto"
    lookup = "lookup"
    decoder = "decoder"
    dense = "dense"


class OutputSize(StrEnum):
    """The choices of --output-size."""

    photo = "photo"
    resized = "resized"


Classes = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS", help='What to look for, separated by commas; "car|automobile" gives one class two words.'
    ),
]
ClassesFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file to use instead of --classes: one class per line, a JSON array or CSV; lines that start with # are skipped.",
    ),
]
Background = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS",
        help="Words for the background, separated by commas: a pixel that suits one of them best is background.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="SCORE",
        help="Instead of --background: a pixel whose best score is lower is background. Scores are probabilities in [0, 1] in "
        "mode decoder, and similarities in [-1, 1] in modes lookup and dense.",
    ),
]
ModeChoice = Annotated[
    Mode,
    typer.Option(
        metavar="auto|lookup|decoder|dense",
        help="lookup uses the tokens alone, decoder the tokens and the trained head, dense the features of an image without "
        "tokens; auto is decoder if the model has a head, and lookup otherwise.",
    ),
]
Labels = Annotated[
    bool,
    typer.Option(
        "--labels",
        help="Also write NAME.labels.png: the number of each pixel's class, from 0 in the order given; 255 is the background. "
        "With more than 255 classes it has 16 bits, and 65535 is the background.",
    ),
]
OutputSizeChoice = Annotated[
    OutputSize,
    typer.Option(
        metavar="photo|resized",
        help="With --size: whether overlays and label maps have the photo's own size, with each label enlarged to the nearest "
        "pixels, or the size to which the photo was resized.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="The folder for the results, or a file name ending in .png for a single input.",
    ),
]


def segment(
    images: Images = None,
    *,
    tokens: TokenFiles = None,
    classes: Classes = None,
    classes_file: ClassesFile = None,
    background: Background = None,
    threshold: Threshold = None,
    mode: ModeChoice = Mode.auto,
    labels: Labels = False,
    model: Model = "tiny",
    out: Out = Path("segmented"),
    size: Size = None,
    output_size: OutputSizeChoice = OutputSize.photo,
    device: Device = "cpu",
    text_cache: TextCache = "auto",
    list_passed_over: ListPassedOver = False,
    skip_existing: SkipExisting = False,
    verbose: Verbose = False,
    force: Force = False,
) -> None:
    """Find what words name, in images or in stored tokens.

    photo.jpg becomes segmented/photo.png: the photo with its classes in colours, and a legend. With --tokens the image is
    decoded from the tokens, and the photo is not needed; a file with several images becomes photo-0.png, photo-1.png, ...
    Files that cannot be used are skipped and listed at the end, and the exit code is then 1.
    """
    words = read_background(background, threshold)
    names = read_names(classes, classes_file, option="--classes", background=words)
    inputs = find_inputs(images, tokens, size=size)
    at_photo_size = size is not None and output_size is OutputSize.photo
    outputs = _plan(inputs.sources, out=out, labels_of=len(names) if labels else None, force=force or skip_existing)
    label_maps = frozenset(map(_labels_path, outputs))
    segmenter = load_segmenter(model, device)
    console = make_console()
    tell_passed_over(console, inputs.sources, by_name=list_passed_over)
    embed_names(segmenter.tok, names, console, background=words, text_cache=cache_folder(text_cache))

    def is_done(source: Source, output: Path) -> bool:
        count, image_size = _count_and_size(inputs, source, segmenter.tok, None if at_photo_size else size)
        paths = number_paths(output, count)
        if image_size is None or not images_are_done(paths, force=force):
            return False
        mode = "L" if len(names) <= 255 else "I;16"
        maps = [_labels_path(path) for path in paths] if labels else []
        return images_are_done(maps, force=force, size=image_size, modes=[mode])

    with (
        Failures(len(outputs), inputs.sources.unlisted) as failures,
        show_progress(console, "segment", len(outputs)) as advance,
    ):
        for source, output in zip(inputs.sources, outputs, strict=True):
            with failures.item(source.path):
                if labels:
                    _check_no_clash(output, label_maps)
                if skip_existing and is_done(source, output):
                    failures.keep()
                    advance()
                    continue
                what = inputs.read(source)
                pixels = _images(segmenter.tok, what)
                found = segmenter.segment(what, names, background=words, threshold=threshold, mode=mode.value)
                if at_photo_size:
                    pixels, found = _enlarge_to_photo(source.path, found)
                for summary in _write(pixels, found, output, labels=labels, force=force or skip_existing):
                    record_file(image=source.path, found=summary)
                    if verbose or len(outputs) == 1:
                        console.print(f"{printable(source.path)}: {summary}")
            advance()
        failures.tell_kept(console)
        if len(outputs) > 1:
            console.print(f"{failures.done} of {failures.tried} files -> {printable(out)}")


def _enlarge_to_photo(path: Path, found: SegmentationMap) -> tuple[Tensor, SegmentationMap]:
    """The photo (1, 3, H, W) at its own size, and labels and scores at that size by their nearest values."""
    import torch.nn.functional as F

    from pyramid_tokenizer.images.read import to_batch

    photo = to_batch(path)
    # as float64 every label is exact
    labels, scores = (
        F.interpolate(values[None].double(), photo.shape[-2:], mode="nearest-exact")[0]
        for values in (found.labels.cpu(), found.scores.cpu())
    )
    return photo, replace(found, labels=labels.long(), scores=scores.float())


def _count_and_size(
    inputs: Inputs, source: Source, tok: PyramidTokenizer, size: int | None
) -> tuple[int, tuple[int, int] | None]:
    """How many images a file has, and the height and width of their results; None where segmenting it will be an error."""
    if not inputs.are_tokens:
        from pyramid_tokenizer.images.files import header_size

        return 1, header_size(source.path, size=size)
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

    tokens = TokenPyramid.load(source.path)
    return tokens.batch_size, tokens.image_size if tokens.fingerprint == tok.fingerprint else None


def _plan(sources: Sequence[Source], *, out: Path, labels_of: int | None, force: bool) -> list[Path]:
    """Decides where the overlays are written, and checks that label maps can be written beside them."""
    outputs = plan_outputs(sources, out=out, suffix=".png", force=force)
    if labels_of is None:
        return outputs
    if labels_of > MAX_CLASSES:
        raise ConfigError(
            f"expected at most {MAX_CLASSES:,} classes with --labels, got {labels_of:,}: leave --labels out"
        )
    if not force:
        check_absent(_labels_path(output) for output in outputs)
    return outputs


def _check_no_clash(overlay: Path, label_maps: Collection[Path]) -> None:
    if overlay in label_maps:
        raise OutputError(
            f"expected one result per name, got {str(overlay)!r} for a label map and an overlay: rename the input, or run "
            "two commands with different --out"
        )


def _labels_path(overlay: Path) -> Path:
    return overlay.with_name(f"{overlay.stem}.labels.png")


def _images(tok: PyramidTokenizer, what: TokenPyramid | Tensor) -> Tensor:
    """(B, 3, H, W): the images over which the overlays are drawn."""
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

    return tok.decode(what) if isinstance(what, TokenPyramid) else what


def _write(images: Tensor, found: SegmentationMap, output: Path, *, labels: bool, force: bool) -> list[str]:
    """Writes an overlay and, with `labels`, a label map per image; returns a summary of each image."""
    from pyramid_tokenizer.images.files import save_image
    from pyramid_tokenizer.images.labelled.labels import label_image
    from pyramid_tokenizer.visualize import overlay

    paths = number_paths(output, len(images))
    if not force:
        check_absent([*paths, *map(_labels_path, paths)] if labels else paths)
    output.parent.mkdir(parents=True, exist_ok=True)
    summaries = []
    for image, image_labels, path in zip(images, found.labels.cpu(), paths, strict=True):
        save_image(overlay(image, image_labels, found.names), path)
        written = [str(path)]
        if labels:
            written.append(str(_labels_path(path)))
            save_image(label_image(image_labels, len(found.names)), written[-1])
        height, width = image_labels.shape
        shares = describe_shares(image_labels, found.names)
        summaries.append(f"{describe_size((height, width))} px, {shares} -> {', '.join(map(printable, written))}")
    return summaries


def describe_shares(labels: Tensor, names: Sequence[str]) -> str:
    """Lists the classes that occur with their shares of the image, the most frequent first and the background last.

    Example:
        >>> import torch
        >>> describe_shares(torch.tensor([[1, 1, -1], [1, 0, -1]]), ["sky", "tree"])
        'tree 50%, sky 17%, background 33%'
    """
    import torch

    present, counts = torch.unique(labels, return_counts=True)
    pairs = sorted(zip(present.tolist(), counts.tolist(), strict=True), key=lambda pair: (pair[0] < 0, -pair[1]))
    shares = [(names[index] if index >= 0 else "background", count / labels.numel()) for index, count in pairs]
    return ", ".join(f"{name} {'<1%' if share < 0.005 else f'{share:.0%}'}" for name, share in shares)

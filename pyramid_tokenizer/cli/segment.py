"""`segment`: images or token files and words -> overlays and label maps."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.cli.files import Source, check_absent, number_paths, plan_outputs
from pyramid_tokenizer.cli.options import Device, Force, Model, Size
from pyramid_tokenizer.cli.terminal import Failures, describe_size, load_segmenter, make_console, show_progress
from pyramid_tokenizer.cli.words import (
    Images,
    TextCache,
    TokenFiles,
    cache_folder,
    find_inputs,
    read_background,
    read_names,
)
from pyramid_tokenizer.errors import ConfigError, ImageError, PyramidTokenizerError, TokenError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from pyramid_tokenizer.segmentation.segmenter import SegmentationMap
    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

MAX_CLASSES = 2**16 - 1
"""Of a label map in a PNG, which has 16 bits at most; the last value is the background's."""


class Mode(str, Enum):
    """Choices of --mode."""

    auto = "auto"
    lookup = "lookup"
    decoder = "decoder"
    dense = "dense"


Classes = Annotated[
    str | None,
    typer.Option(metavar="WORDS", help='What to look for, in a comma list; "car|automobile" are words for one class.'),
]
ClassesFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Instead of --classes: one class a line; lines that start with # are passed over."
    ),
]
Background = Annotated[
    str | None,
    typer.Option(metavar="WORDS", help="What is likelier one of these words, in a comma list, is background."),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="SCORE",
        help="Instead of --background: what scores less is background. Scores are probabilities in [0, 1] with mode "
        "decoder, similarities in [-1, 1] with lookup and dense.",
    ),
]
ModeChoice = Annotated[
    Mode,
    typer.Option(
        metavar="auto|lookup|decoder|dense",
        help="By the tokens alone, by tokens and the trained head, by the backbone's own map of an image; auto takes the head "
        "where there is one.",
    ),
]
Labels = Annotated[
    bool,
    typer.Option(
        "--labels",
        help="Also write NAME.labels.png: the number of each pixel's class, from 0 in the order given; 255 is background. With "
        "more than 255 classes it has 16 bits, and 65535 is background.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="PATH", help="A folder, or a name with .png for a single input.")
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
    device: Device = "cpu",
    text_cache: TextCache = "auto",
    force: Force = False,
) -> None:
    """Find what words name, in images or in stored tokens.

    photo.jpg becomes segmented/photo.png: the photo under the colours of its classes, with a legend. With --tokens the
    image is decoded from the tokens, the photo is not needed; a file with several images becomes photo-0.png, photo-1.png,
    ... Files that cannot be used are passed over, named at the end, and make the exit code 1.
    """
    rest = read_background(background, threshold)
    words = rest if isinstance(rest, list) else None
    names = read_names(classes, classes_file, option="--classes", background=words)
    inputs = find_inputs(images, tokens, size=size)
    outputs = _plan(inputs.sources, out=out, labels_of=len(names) if labels else None, force=force)
    segmenter = load_segmenter(model, device, text_cache=cache_folder(text_cache))
    console = make_console()
    with Failures(len(outputs)) as failures, show_progress(console, "segment", len(outputs)) as advance:
        for source, output in zip(inputs.sources, outputs, strict=True):
            try:
                what = inputs.read(source)
                images = _images(segmenter.tok, what)
                found = segmenter.segment(what, names, background=rest, mode=mode.value)
            except (ImageError, TokenError) as error:
                failures.add(source.path, error)
            else:
                for summary in _write(images, found, output, labels=labels, force=force):
                    console.print(f"{source.path}: {summary}")
            advance()


def _plan(sources: Sequence[Source], *, out: Path, labels_of: int | None, force: bool) -> list[Path]:
    """Where overlays go, and that label maps of so many classes can go beside them."""
    outputs = plan_outputs(sources, out=out, suffix=".png", force=force)
    if labels_of is None:
        return outputs
    if labels_of > MAX_CLASSES:
        raise ConfigError(
            f"expected at most {MAX_CLASSES:,} classes with --labels, got {labels_of:,}: leave --labels out"
        )
    paths = [_labels_path(output) for output in outputs]
    both = set(paths).intersection(outputs)
    if both:
        raise PyramidTokenizerError(
            f"expected one result per name, got {str(min(both))!r} for a label map and an overlay: rename an input, or give "
            "each call its own --out"
        )
    if not force:
        check_absent(paths)
    return outputs


def _labels_path(overlay: Path) -> Path:
    return overlay.with_name(f"{overlay.stem}.labels.png")


def _images(tok: PyramidTokenizer, what: TokenPyramid | Tensor) -> Tensor:
    """(B, 3, H, W), what overlays lie on."""
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid

    return tok.decode(what) if isinstance(what, TokenPyramid) else what


def _write(images: Tensor, found: SegmentationMap, output: Path, *, labels: bool, force: bool) -> list[str]:
    """One overlay an image, and with `labels` one label map; says of each image what was found and where it is."""
    from pyramid_tokenizer.images.files import save_image
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
            save_image(_label_map(image_labels, len(found.names)), written[-1])
        height, width = image_labels.shape
        shares = describe_shares(image_labels, found.names)
        summaries.append(f"{describe_size((height, width))} px, {shares} -> {', '.join(written)}")
    return summaries


def _label_map(labels: Tensor, num_classes: int) -> Image.Image:
    """8 bits a pixel, or 16 where classes are many; the highest value for -1."""
    import numpy as np
    from PIL import Image

    # unsigned integers wrap -1 around to their highest value
    return Image.fromarray(labels.numpy().astype(np.uint8 if num_classes <= 255 else np.uint16))


def describe_shares(labels: Tensor, names: Sequence[str]) -> str:
    """Classes that occur with their share of the image, most frequent first; the background behind them.

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

"""The command `finetune --segmentation`: adds a segmentation head to a model, trained on masks of one's own."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.cli.progress import show_steps
from pyramid_tokenizer.cli.terminal import load_tokenizer, make_console, show_progress, warnings_as_lines
from pyramid_tokenizer.cli.words import embed_names

if TYPE_CHECKING:
    from rich.console import Console

    from pyramid_tokenizer.images.labelled import SegmentationSet
    from pyramid_tokenizer.training import TrainConfig

Masks = Annotated[
    Path | None,
    typer.Option(
        "--segmentation",
        metavar="FOLDER",
        help="Instead of --images: train a segmentation head on the images in FOLDER/images and the masks in "
        "FOLDER/labels/*.png, whose values are lines of FOLDER/classes.txt counted from 0; pixels of value 255 do not count.",
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="With --segmentation: a file of class names, one a line, in place of FOLDER/classes.txt."
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="With --segmentation: train on the images listed in FOLDER/splits/NAME.txt; by default on all that have a mask.",
    ),
]
Joint = Annotated[
    bool,
    typer.Option(
        "--joint", help="With --segmentation: train the decoder too, for masks and pixels at once; ids stay the same."
    ),
]
OwnTrunk = Annotated[
    bool,
    typer.Option(
        "--own-trunk", help="With --segmentation: give the head a trunk of its own instead of sharing the decoder's."
    ),
]
SHOWN_NAMES = 8
"""Largest number of class names in the command that is printed at the end."""


def train_on_masks(
    model: str,
    folder: Path,
    *,
    split: str | None,
    classes: Path | None,
    config: TrainConfig,
    own_trunk: bool,
    out: Path,
    half: bool,
) -> None:
    """Trains a segmentation head, saves the model, and prints the command that shows what it does.

    Args:
        model: A bundled model, a directory, or a Hub repository.
        folder: The labelled set, with images/, labels/ and, unless `classes` is given, classes.txt.
        split: Name of a list of images in splits/; None takes every image that has a mask.
        classes: File of class names, one a line.
        config: Steps, crops and rates.
        own_trunk: Whether the head gets a trunk of its own.
        out: Folder of the new model.
        half: Whether decoder and head are stored in float16.

    Raises:
        PyramidTokenizerError: As `open_segmentation_set`, `PyramidTokenizer.from_pretrained` and `train_segmentation`.
    """
    from pyramid_tokenizer.config.models import SegmentationConfig
    from pyramid_tokenizer.images.labelled import distinct_names
    from pyramid_tokenizer.training import train_segmentation

    console = make_console()
    labelled = open_masks(folder, split=split, classes=classes)
    check_labels(labelled, console)
    tok = load_tokenizer(model)
    names = learned_names(labelled)
    console.print(f"finetune: {len(labelled):,} labelled images, {len(names):,} classes, {model} -> {out}")
    embed_names(tok, distinct_names(names), console, text_cache=None)  # the training finds them remembered
    shape = dataclasses.replace(tok.config.segmentation or SegmentationConfig(), shared_decoder=not own_trunk)
    with warnings_as_lines(), show_steps(console) as log:
        train_segmentation(tok, [labelled], config=config, segmentation=shape, out=out, half=half, log=log)
    console.print(f"model written to {out}")
    kept = config.decoupled and not half
    console.print(
        f"ids are the same: tokens stored before stay valid; decoded pixels are {'the same' if kept else 'new'}"
    )
    rest = "" if labelled.protocol.background_class is None else " --threshold 0.5"
    words = shlex.quote(",".join(names[:SHOWN_NAMES]))
    console.print(
        f"see what it does: pyramid-tokenizer segment IMAGES --classes {words}{rest} --model {shlex.quote(str(out))}"
    )


def open_masks(folder: Path, *, split: str | None, classes: Path | None) -> SegmentationSet:
    """The labelled set in a folder; a word that several class names share is left to one of them."""
    from pyramid_tokenizer.images.labelled import distinct_names, open_segmentation_set

    folder, classes = folder.expanduser(), classes and classes.expanduser()
    labelled = open_segmentation_set(folder, split=split, classes=classes)
    return open_segmentation_set(folder, split=split, classes=distinct_names(labelled.names))


def check_labels(labelled: SegmentationSet, console: Console) -> None:
    """Reads every label file once, so that a wrong one ends the run at its start and not in its last step."""
    with show_progress(console, "check labels", len(labelled)) as advance:
        for _ in labelled:
            advance()


def learned_names(labelled: SegmentationSet) -> list[str]:
    """Names of the classes that the head learns: all but the background."""
    background = labelled.protocol.background_class
    return [name for index, name in enumerate(labelled.names) if index != background]

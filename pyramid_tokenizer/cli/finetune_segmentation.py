"""`finetune --segmentation`: a trained model and masks of one's own -> the model with a segmentation head."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyramid_tokenizer.cli.progress import show_steps
from pyramid_tokenizer.cli.terminal import load_tokenizer, make_console, show_progress

if TYPE_CHECKING:
    from rich.console import Console

    from pyramid_tokenizer.images.labelled import SegmentationSet
    from pyramid_tokenizer.training import TrainConfig

Masks = Annotated[
    Path | None,
    typer.Option(
        "--segmentation",
        metavar="FOLDER",
        help="Instead of --images: train a segmentation head on images/, labels/*.png, whose values are lines of classes.txt "
        "from 0, 255 for ignored.",
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="With --segmentation: class names, one a line, in place of FOLDER/classes.txt."),
]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="With --segmentation: the images listed in FOLDER/splits/NAME.txt; all with a label file if not given.",
    ),
]
Joint = Annotated[
    bool,
    typer.Option("--joint", help="With --segmentation: train the decoder too, for masks and pixels at once; ids stay."),
]
OwnTrunk = Annotated[
    bool,
    typer.Option("--own-trunk", help="With --segmentation: give the head a trunk of its own, not the decoder's."),
]
SHOWN_NAMES = 8
"""Class names in the command that is told at the end, at most."""


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
    """Trains the head, saves the model and tells how to see it.

    Args:
        model: A name, directory or repository.
        folder: With images/, labels/ and, unless `classes` is given, classes.txt.
        split: A list of names in splits/; None takes every label file.
        classes: Class names, one a line.
        config: How to train.
        own_trunk: Give the head a trunk of its own.
        out: Folder of the new model.
        half: Store decoder and head as float16.

    Raises:
        PyramidTokenizerError: As `open_segmentation_set`, `PyramidTokenizer.from_pretrained` and `train_segmentation`.
    """
    from pyramid_tokenizer.config.models import SegmentationConfig
    from pyramid_tokenizer.training import train_segmentation

    console = make_console()
    labelled = open_masks(folder, split=split, classes=classes)
    check_labels(labelled, console)
    tok = load_tokenizer(model)
    names = learned_names(labelled)
    console.print(f"finetune: {len(labelled):,} labelled images, {len(names):,} classes, {model} -> {out}")
    shape = dataclasses.replace(tok.config.segmentation or SegmentationConfig(), shared_decoder=not own_trunk)
    with show_steps(console) as log:
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
    """The set in a folder, with each word of its class names left to one class."""
    from pyramid_tokenizer.images.labelled import distinct_names, open_segmentation_set

    folder, classes = folder.expanduser(), classes and classes.expanduser()
    labelled = open_segmentation_set(folder, split=split, classes=classes)
    return open_segmentation_set(folder, split=split, classes=distinct_names(labelled.names))


def check_labels(labelled: SegmentationSet, console: Console) -> None:
    """Reads every label file once, so that a wrong one ends the run now and not in its last step."""
    with show_progress(console, "check labels", len(labelled)) as advance:
        for _ in labelled:
            advance()


def learned_names(labelled: SegmentationSet) -> list[str]:
    """Names of the classes without the background's."""
    background = labelled.protocol.background_class
    return [name for index, name in enumerate(labelled.names) if index != background]

"""The results of `evaluate`: tables of scores for the terminal, and a JSON file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid_tokenizer.cli.terminal import make_table
from pyramid_tokenizer.errors import PyramidTokenizerError
from pyramid_tokenizer.files import write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pyramid_tokenizer.evaluation import SegmentationScores, TokenFigures

TITLES = {
    "miou_present": "mIoU of the classes in the labels",
    "miou_union": "mIoU of the classes in labels or predictions",
    "fwiou": "frequency-weighted IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_class_accuracy": "mean class accuracy",
}
"""The title of each field of `ConfusionScores` in the table."""


def score_table(result: SegmentationScores) -> Table:
    """A table of every score in per cent with its interval."""
    table = make_table(None, "score", "%", "95 % interval")
    for name, words in TITLES.items():
        low, high = result.intervals[name]
        table.add_row(words, percent(getattr(result.scores, name)), f"{percent(low)} to {percent(high)}")
    return table


def class_table(result: SegmentationScores) -> Table:
    """A table with a row per class, in the order of the labels; `result` must have names."""
    table = make_table(None, "class", "IoU %", "share of pixels %")
    counts = result.confusion.counts.sum(1).tolist()
    for name, iou, count in zip(result.names, result.scores.iou, counts, strict=True):
        table.add_row(name, percent(iou), percent(count / result.confusion.num_pixels))
    return table


def token_table(levels: Sequence[TokenFigures]) -> Table:
    """A table with a row per level, coarse to fine."""
    columns = "level", "stride", "entries", "seen", "purity %", "most frequent class %", "mIoU %", "accuracy %"
    table = make_table(None, *columns)
    for number, level in enumerate(levels):
        counts = str(number), str(level.stride), f"{level.codebook_size:,}", f"{level.num_seen:,}"
        shares = level.purity, level.majority_share, level.oracle_miou, level.oracle_accuracy
        table.add_row(*counts, *map(percent, shares))
    return table


def show_table(console: Console, table: Table) -> None:
    """Prints the table after an empty line."""
    console.print()
    console.print(table, soft_wrap=False)


def percent(share: float) -> str:
    """Formats a share as per cent with two decimals, and NaN as a dash.

    Example:
        >>> percent(0.12345), percent(float("nan"))
        ('12.35', '-')
    """
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def check_json(path: Path | None, *, force: bool) -> None:
    """Raises PyramidTokenizerError if `path` is a folder, or a file that exists while `force` is off."""
    if path is None:
        return
    path = path.expanduser()
    if path.is_dir():
        raise PyramidTokenizerError(
            f"expected a file as --json, got the folder {str(path)!r}: give the name of a file in it"
        )
    if path.exists() and not force:
        raise PyramidTokenizerError(
            f"expected a new file as --json, got {str(path)!r} there already: choose another, or replace it with --force"
        )


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Writes the data as JSON; after an error or an interruption there is no partial file."""
    import json

    path = path.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")

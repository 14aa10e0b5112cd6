"""The tables of `segmentation.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.reconstruction import number, table
from examples.research.segmentation_kept_out import SHUFFLES

SINGLE = ("miou_present", "miou_union", "fwiou", "pixel_accuracy")
"""Scores of masks, in the order of the columns."""


def to_markdown(result: dict[str, Any]) -> str:
    facts = [f"- {name}: {result[name]}" for name in ("model", "fingerprint", "protocol", "machine", "date")]
    parts = ["\n".join([*facts, *(f"- note: {note}" for note in result["notes"])]), learned_table(result["sets"])]
    if result["kept_out"]:
        parts.append(kept_out_table(result["kept_out"]))
    parts.append(level_table(result["sets"]))
    return "\n\n".join(parts) + "\n"


def learned_table(sets: Sequence[dict[str, Any]]) -> str:
    head = ("learned names", "masks", "mIoU, present classes", "95 %", "mIoU, union", "fwIoU", "pixel accuracy")
    lines = []
    for entry in sets:
        title = f"{entry['set']}: {entry['learned_names']} of {entry['names']} names, {entry['images']} images"
        title += ", background ignored" if entry["background_ignored"] else ""
        for row in entry["rows"]:
            present, *others = (percent(row[name]) for name in SINGLE)
            lines.append((title, row["from"], present, bounds(row["interval"]), *others))
    return table(head, once(lines))


def kept_out_table(found: Sequence[dict[str, Any]]) -> str:
    shuffled = f"names shuffled ({SHUFFLES} times)"
    head = ("kept-out names among all", "masks", "mIoU", "95 %", shuffled, "every name in turn", "ratio", "95 %")
    lines = [
        (
            f"{row['set']}: {row['classes']} classes, {row['images']} images",
            row["from"],
            percent(row["miou"]),
            bounds(row["interval"]),
            percent(row["shuffled"], 2),
            percent(row["every_name"], 2),
            times(row["ratio"]),
            " to ".join(times(x) for x in row["ratio_interval"]),
        )
        for row in found
    ]
    return table(head, once(lines))


def level_table(sets: Sequence[dict[str, Any]]) -> str:
    head = ("codes", "level", "K", "seen", "purity", "commonest class", "oracle mIoU", "oracle pixel accuracy")
    lines = [
        (
            entry["set"],
            index,
            level["codes"],
            level["seen_in_test"],
            *(percent(level[name]) for name in ("purity", "majority_share")),
            *(percent(level[name]) for name in ("oracle_miou_present", "oracle_pixel_accuracy")),
        )
        for entry in sets
        for index, level in enumerate(entry["levels"])
    ]
    return table(head, once(lines))


def once(lines: Sequence[tuple]) -> list[tuple]:
    """The lines with a title that repeats left empty."""
    before = [None, *(line[0] for line in lines)]
    return [("" if line[0] == last else line[0], *line[1:]) for line, last in zip(lines, before, strict=False)]


def percent(value: float | None, digits: int = 1) -> str:
    return number(None if value is None else 100 * value, digits)


def bounds(values: Sequence[float | None]) -> str:
    return " to ".join(percent(value) for value in values)


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} x"

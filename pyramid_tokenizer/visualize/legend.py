"""Legends: coloured swatches with names and shares in columns on white (`draw_legend`), below an image (`add_legend`)."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pyramid_tokenizer.visualize.lettering import CAPTION, FRAME, TITLE, WHITE, Font, find_font, shorten, widest

_NAME_EMS = 12  # longer names are shortened
_CELL_EMS = 6  # the least width of a column: a short name and a share
_LEAST_ROWS = 8  # the least height of a legend, even if it is higher than asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class LegendEntry:
    """One line of a legend."""

    name: str
    fallback: str
    """An ASCII text that is shown instead of the name if no font has the letters of the name."""
    share: float
    """The share of the image, in [0, 1]."""
    colour: tuple[int, int, int] | None
    """(red, green, blue) in 0..255 of the swatch; None draws no swatch."""


def draw_legend(
    entries: Sequence[LegendEntry], *, width_px: int, height_px: int, last: Sequence[LegendEntry] = ()
) -> Image.Image:
    """Draws the entries column by column; entries without room become one line such as "and 3 more" with their total share.

    Args:
        entries: The entries, the most important first.
        width_px: The width of the legend; it is exceeded if one entry needs more.
        height_px: The greatest height; entries are left out to keep it, but at least eight rows are drawn.
        last: Entries that are drawn after the others and are never left out.

    Returns:
        An RGB image on white, at least `width_px` wide.

    Example:
        >>> dog = LegendEntry(name="dog", fallback="class 1", share=0.25, colour=(231, 118, 4))
        >>> draw_legend([dog], width_px=200, height_px=200).width
        200
    """
    text_px = min(max(round(min(width_px, height_px) / 36), 12), 36)
    style = _Style(text_px=text_px, width=width_px)
    most_rows = max(_LEAST_ROWS, (height_px - 2 * text_px) // style.row)
    # entries that cannot have room, however short their names are, are not measured
    shown = min(len(entries), most_rows * (width_px // (_CELL_EMS * text_px) + 1))
    lines, ends = style.lines(entries[:shown]), style.lines(last)
    while True:
        rest = entries[shown:]
        more = LegendEntry(name=f"and {len(rest)} more", fallback="", share=sum(e.share for e in rest), colour=None)
        columns = style.columns([*lines[:shown], *(style.lines([more]) if rest else []), *ends])
        if len(columns[0]) <= most_rows or not shown:
            return style.draw(columns)
        shown -= 1


def add_legend(
    drawn: Image.Image, classes: NDArray[Any], names: Sequence[str], colours: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """The image with a legend below of the classes that occur, the most frequent first.

    Args:
        drawn: RGB image of (H, W) pixels.
        classes: (H, W) integers: the index of each pixel's class, or `NO_CLASS`.
        names: The names of the classes.
        colours: A colour for each name.

    Returns:
        An RGB image, wider than `drawn` where one entry of the legend is.
    """
    no_class, *counts = np.bincount(classes.ravel().astype(np.intp) + 1, minlength=len(names) + 1).tolist()
    entries = [
        LegendEntry(
            name=" ".join(name.split()), fallback=f"class {index}", share=count / classes.size, colour=colours[index]
        )
        for index, (name, count) in enumerate(zip(names, counts, strict=True))
        if count
    ]
    entries.sort(key=lambda entry: -entry.share)
    rest = LegendEntry(name="no class", fallback="no class", share=no_class / classes.size, colour=(255, 255, 255))
    legend = draw_legend(entries, width_px=drawn.width, height_px=drawn.height, last=[rest] if no_class else [])
    whole = Image.new("RGB", (legend.width, drawn.height + legend.height), WHITE)
    whole.paste(drawn, (0, 0))
    whole.paste(legend, (0, drawn.height))
    return whole


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """An entry with its font and its width."""

    name: str
    font: Font
    share: str
    colour: tuple[int, int, int] | None
    width: int
    """Pixels from the left side of the swatch to the right side of the share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Style:
    """The measures of a legend in pixels."""

    text_px: int
    """The size of the text, of the swatches and of the margin."""
    width: int
    """The width of the legend."""

    @property
    def row(self) -> int:
        """The distance from one line to the next."""
        return round(1.6 * self.text_px)

    @property
    def indent(self) -> int:
        """The distance from the left side of a swatch to that of its name."""
        return round(1.6 * self.text_px)

    @property
    def gap(self) -> int:
        """The distance between columns."""
        return round(1.2 * self.text_px)

    @property
    def share_font(self) -> Font:
        return ImageFont.load_default(self.text_px)

    def lines(self, entries: Sequence[LegendEntry]) -> list[_Line]:
        fonts = [find_font(entry.name, px=self.text_px) for entry in entries]
        _warn_of([entry for entry, font in zip(entries, fonts, strict=True) if font is None])
        lines = []
        for entry, found in zip(entries, fonts, strict=True):
            font = found or self.share_font
            name = shorten(entry.name if found else entry.fallback, font, width_px=_NAME_EMS * self.text_px)
            share = "<1%" if entry.share < 0.005 else f"{entry.share:.0%}"
            width = self.indent + widest([name], font) + round(0.8 * self.text_px) + widest([share], self.share_font)
            lines.append(_Line(name=name, font=font, share=share, colour=entry.colour, width=width))
        return lines

    def columns(self, lines: Sequence[_Line]) -> list[Sequence[_Line]]:
        """Arranges the lines in as many columns as fit."""
        for count in range(len(lines), 0, -1):
            rows = math.ceil(len(lines) / count)
            columns = [lines[start : start + rows] for start in range(0, len(lines), rows)]
            if self.needed(columns) <= self.width:
                return columns
        return [lines]

    def needed(self, columns: Sequence[Sequence[_Line]]) -> int:
        """The width that the columns need, margins included."""
        return 2 * self.text_px + sum(map(_widest_line, columns)) + self.gap * (len(columns) - 1)

    def draw(self, columns: Sequence[Sequence[_Line]]) -> Image.Image:
        size = max(self.width, self.needed(columns)), 2 * self.text_px + len(columns[0]) * self.row
        legend = Image.new("RGB", size, WHITE)
        draw = ImageDraw.Draw(legend)
        steps = [_widest_line(column) + self.gap for column in columns]
        for column, left in zip(columns, itertools.accumulate(steps[:-1], initial=self.text_px), strict=True):
            right = left + _widest_line(column)
            for i, line in enumerate(column):
                middle = self.text_px + i * self.row + self.row // 2
                top = middle - self.text_px // 2
                if line.colour is not None:
                    box = left, top, left + self.text_px - 1, top + self.text_px - 1
                    draw.rectangle(box, fill=line.colour, outline=FRAME)
                ink = CAPTION if line.colour is None else TITLE
                draw.text((left + self.indent, middle), line.name, fill=ink, font=line.font, anchor="lm")
                draw.text((right, middle), line.share, fill=CAPTION, font=self.share_font, anchor="rm")
        return legend


def _widest_line(lines: Sequence[_Line]) -> int:
    return max(line.width for line in lines)


def _warn_of(missing: Sequence[LegendEntry]) -> None:
    if missing:
        others = f", and {len(missing) - 1} more names likewise" if missing[1:] else ""
        warnings.warn(
            f"expected a font with the letters of {missing[0].name!r}, got none on this machine: shown as "
            f"{missing[0].fallback!r}{others}; install a Noto font for the script",
            stacklevel=6,
        )

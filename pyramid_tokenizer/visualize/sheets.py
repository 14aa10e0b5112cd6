"""`contact_sheet`: draws rows of images with titles and captions as one image on white."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from pyramid_tokenizer.checks.arguments import check_kinds
from pyramid_tokenizer.errors import ImageValueError
from pyramid_tokenizer.visualize.lettering import CAPTION, FRAME, TITLE, WHITE, Font, line_height, widest


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    *,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Draws images in rows and columns, each at its own size in the middle of its cell, with text around them.

    A column is as wide as its widest image or text, and a row is as high as its highest image. The size of the text grows with
    the images. The font is Pillow's own, which has little beyond ASCII: other letters appear as boxes.

    Args:
        rows: The images, of any size; rows may differ in length.
        column_titles: The titles above the columns; () for none.
        row_titles: The titles left of the rows; () for none.
        captions: The texts below the images, in rows like the images, of one line or several; () for none.

    Returns:
        One RGB image; transparent images are drawn on white.

    Raises:
        ImageValueError: There is no image, or the titles or captions do not match the rows and columns.

    Example:
        >>> red, blue = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")
        >>> sheet = contact_sheet([[red, blue]], column_titles=["before", "after"])
        >>> sheet.mode, sheet.width > 2 * red.width
        ('RGB', True)
    """
    _check(rows, column_titles, row_titles, captions)
    layout = _Layout.of(rows, column_titles, row_titles, captions)
    sheet = Image.new("RGB", layout.size, WHITE)
    draw = ImageDraw.Draw(sheet)
    for (left, right), title in zip(layout.columns, column_titles, strict=False):
        draw.text(((left + right) / 2, layout.margin), title, fill=TITLE, font=layout.title, anchor="ma")
    for (top, bottom), title in zip(layout.rows, row_titles, strict=False):
        draw.text((layout.margin, (top + bottom) / 2), title, fill=TITLE, font=layout.title, anchor="lm")
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            (left, right), (top, bottom) = layout.columns[j], layout.rows[i]
            x, y = (left + right - image.width) // 2, (top + bottom - image.height) // 2
            draw.rectangle((x - 1, y - 1, x + image.width, y + image.height), outline=FRAME)
            sheet.paste(_to_rgb(image), (x, y))
            for k, line in enumerate(captions[i][j].split("\n") if captions else ()):
                place = (left + right) / 2, bottom + layout.gap / 2 + k * line_height(layout.caption)
                draw.text(place, line, fill=CAPTION, font=layout.caption, anchor="ma")
    return sheet


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """The positions of everything on a sheet, in pixels."""

    title: Font
    caption: Font
    margin: int
    """The distance from the border of the sheet."""
    gap: int
    """The distance between cells."""
    columns: list[tuple[int, int]]
    """The left and the right side of each column."""
    rows: list[tuple[int, int]]
    """The top and the bottom of the images of each row; the captions follow below."""
    size: tuple[int, int]
    """Width and height of the sheet."""

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[Image.Image]],
        column_titles: Sequence[str],
        row_titles: Sequence[str],
        captions: Sequence[Sequence[str]],
    ) -> _Layout:
        side = statistics.median(min(image.size) for row in rows for image in row)
        text_px = min(max(round(side / 18), 12), 72)
        title, caption = ImageFont.load_default(round(1.2 * text_px)), ImageFont.load_default(text_px)
        gap, margin = text_px, 2 * text_px

        images = [max(p.width for p in column) for column in _columns(rows)]
        texts = [widest(column, caption) for column in _columns(captions)] or [0] * len(images)
        titles = [widest([text], title) for text in column_titles] or [0] * len(images)
        left = margin + widest(row_titles, title) + (gap if any(row_titles) else 0)
        columns = _spans(left, [max(three) for three in zip(images, texts, titles, strict=True)], [gap] * len(images))

        top = margin + (line_height(title) + gap // 2 if any(column_titles) else 0)
        below = [_captions_height(row, caption, gap) for row in captions] or [0] * len(rows)
        spans = _spans(top, [max((p.height for p in row), default=0) for row in rows], [gap + extra for extra in below])
        size = columns[-1][1] + margin, spans[-1][1] + below[-1] + margin
        return cls(title=title, caption=caption, margin=margin, gap=gap, columns=columns, rows=spans, size=size)


def _check(
    rows: Sequence[Sequence[Image.Image]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    captions: Sequence[Sequence[str]],
) -> None:
    fix = "pass rows of PIL images, [[image, image]]; images.pixels.to_pil makes them of tensors"
    check_kinds(rows, Sequence, name="rows", fix=fix, error=ImageValueError)
    for index, row in enumerate(rows):
        check_kinds(row, Image.Image, name=f"row {index}", fix=fix, error=ImageValueError)
    lengths = [len(row) for row in rows]
    if not any(lengths):
        raise ImageValueError(f"expected at least one image, got rows of {lengths} images: pass rows of PIL images")
    for what, titles, count in (("column", column_titles, max(lengths)), ("row", row_titles, len(rows))):
        if titles and len(titles) != count:
            raise ImageValueError(
                f"expected {count} {what} titles, got {len(titles)}: give one for each {what}, or none"
            )
    texts = [len(row) for row in captions]
    if captions and texts != lengths:
        raise ImageValueError(f"expected rows of {lengths} captions, got {texts}: give one for each image, or none")


def _columns(rows: Sequence[Sequence[object]]) -> list[list]:
    """The columns of rows that may differ in length."""
    return [[row[j] for row in rows if j < len(row)] for j in range(max(map(len, rows), default=0))]


def _spans(start: int, lengths: Sequence[int], gaps: Sequence[int]) -> list[tuple[int, int]]:
    """The start and the end of each length, if they follow one another with their gaps between them."""
    steps = [length + gap for length, gap in zip(lengths, gaps, strict=True)]
    starts = itertools.accumulate(steps[:-1], initial=start)
    return [(begin, begin + length) for begin, length in zip(starts, lengths, strict=True)]


def _captions_height(captions: Sequence[str], font: Font, gap: int) -> int:
    lines = max((text.count("\n") + 1 for text in captions if text), default=0)
    return gap // 2 + lines * line_height(font) if lines else 0


def _to_rgb(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, WHITE)
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")

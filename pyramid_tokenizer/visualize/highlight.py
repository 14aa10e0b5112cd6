"""`highlight_cells`: cells of a level in full colour on a paler image."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image, ImageDraw, ImageFilter

OUTLINE, _EDGE = "#ffde28", "#101010"
_PALENESS = 0.45


def highlight_cells(image: Image.Image, cells: Iterable[tuple[int, int]], *, cell_px: int) -> Image.Image:
    """The image, grey and paler, with some cells in full colour; neighbours are outlined together.

    Args:
        image: An RGB image.
        cells: Row and column of each cell.
        cell_px: Pixels of this image along each side of a cell.

    Example:
        >>> drawn = highlight_cells(Image.new("RGB", (64, 64), "red"), [(0, 1)], cell_px=32)
        >>> drawn.getpixel((40, 10)), drawn.getpixel((40, 33))
        ((255, 0, 0), (255, 222, 40))
    """
    inside = Image.new("L", image.size)
    draw = ImageDraw.Draw(inside)
    for row, column in cells:
        left, top = column * cell_px, row * cell_px
        draw.rectangle((left, top, left + cell_px - 1, top + cell_px - 1), fill=255)
    drawn = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), _PALENESS)
    for colour, reach_px in ((_EDGE, 3), (OUTLINE, 2)):  # the wider one lies below
        drawn.paste(colour, mask=inside.filter(ImageFilter.MaxFilter(2 * reach_px + 1)))
    drawn.paste(image, mask=inside)
    return drawn

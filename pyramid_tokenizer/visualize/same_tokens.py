"""`tokens_at`: the tokens at a place of an image, and where else they occur; `same_tokens_sheet` draws it, a level each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.visualize.contributions import cells_at
from pyramid_tokenizer.visualize.highlight import highlight_cells
from pyramid_tokenizer.visualize.maps import enlarge_image, enlargement
from pyramid_tokenizer.visualize.sheets import contact_sheet

_BEYOND_PX = 6
"""How far a ring is from the corners of its cell: beyond the cell's outline."""
_RINGS = (("white", 2, 6), ("#d01030", 1, 4))
"""Colour of each ring around a cell, how far it reaches beyond the other, and its width in pixels; the lower one first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedToken:
    """The token of one level at a place of one image."""

    level: int
    row: int
    """Row of its cell on the level's grid."""
    column: int
    """Column of its cell."""
    id: int
    cells: tuple[tuple[int, int], ...]
    """Row and column of every cell of the level with this id, its own among them."""
    num_tokens: int
    """How many tokens the level has in this image."""


def tokens_at(tokens: TokenPyramid, x: int, y: int, *, strides: Sequence[int]) -> list[PlacedToken]:
    """The token of each level at a pixel, coarse to fine; levels without a token there are left out.

    Args:
        tokens: Tokens of one image.
        x: Column of the pixel.
        y: Row of the pixel.
        strides: Pixels along each side of a cell for every level: `tok.quantizer.strides`.

    Raises:
        TokenRangeError: The pixel is outside the image.
        TokenError: The tokens are of several images, or the strides do not fit them.

    Example:
        >>> import torch
        >>> ids = (torch.tensor([[[3, 1]]]), torch.tensor([[[0, 5, 2, 2], [7, 4, 4, 2]]]))
        >>> tokens = TokenPyramid(ids=ids, codebook_sizes=(4, 8), image_size=(32, 64), fingerprint="0" * 64)
        >>> [(one.id, one.cells) for one in tokens_at(tokens, 40, 3, strides=(32, 16))]
        [(1, ((0, 1),)), (2, ((0, 2), (0, 3), (1, 3)))]
    """
    found = []
    for level, (row, column) in enumerate(cells_at(tokens, x, y, strides=strides)):
        ids = tokens.ids[level][0]
        same = (ids == ids[row, column]).nonzero().tolist()
        found.append(
            PlacedToken(
                level=level,
                row=row,
                column=column,
                id=int(ids[row, column]),
                cells=tuple((r, c) for r, c in same),
                num_tokens=int((ids >= 0).sum()),
            )
        )
    return found


def same_tokens_sheet(
    image: Image.Image,
    found: Sequence[PlacedToken],
    captions: Sequence[str],
    *,
    strides: Sequence[int],
) -> Image.Image:
    """Draws the image once for each level: the cells with the same token in full colour, and a ring around the one of the place.

    Args:
        image: The photo, or what the tokens decode to.
        found: What `tokens_at` found.
        captions: A text for each of them, of one line or several.
        strides: As `tokens_at` takes them.

    Raises:
        ImageValueError: There is no token.
    """
    scale = enlargement(image.size)
    large = enlarge_image(image, scale)
    drawn = [highlight_cells(large, one.cells, cell_px=strides[one.level] * scale) for one in found]
    for one, sheet in zip(found, drawn, strict=True):
        _ring(sheet, one, cell_px=strides[one.level] * scale)
    return contact_sheet([drawn], column_titles=[f"level {one.level}" for one in found], captions=[captions])


def _ring(drawn: Image.Image, one: PlacedToken, *, cell_px: int) -> None:
    """Draws a ring around the cell of the place."""
    x, y = ((index + 0.5) * cell_px for index in (one.column, one.row))
    radius = 0.72 * cell_px + _BEYOND_PX
    for colour, beyond, width in _RINGS:
        ImageDraw.Draw(drawn).circle((x, y), radius + beyond, outline=colour, width=width)

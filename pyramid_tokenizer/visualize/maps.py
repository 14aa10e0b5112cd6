"""`token_maps`: the ids of every level as coloured cells; `map_sheet` puts them beside the image, with captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pyramid_tokenizer.errors import TokenError
from pyramid_tokenizer.tokens.notebook import describe_level
from pyramid_tokenizer.tokens.palette import code_colours
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.visualize.lettering import WHITE, widest
from pyramid_tokenizer.visualize.sheets import contact_sheet

SIDE_PX = 512
"""Sheets enlarge small images to about this long side, so that the numbers of coarse tokens can be read."""
_LEAST_TEXT_PX, _MOST_TEXT_PX = 9, 24
_DARK = "#101010"


def token_maps(tokens: TokenPyramid, *, strides: Sequence[int], scale: int = 1) -> list[Image.Image]:
    """Draws each level of one image as a map of its tokens, coarse to fine.

    A code has the same colour in every map and image (`code_colours`); absent cells are light grey. Where cells are large enough,
    their ids are written in them.

    Args:
        tokens: Tokens of one image.
        strides: Pixels along each side of a cell for every level: `tok.quantizer.strides`.
        scale: Pixels of the maps for each pixel of the image, at least 1.

    Returns:
        An RGB image per level, of `scale` times the image's size.

    Raises:
        TokenError: The tokens are of several images, or the strides do not fit them.

    Example:
        >>> import torch
        >>> ids = (torch.tensor([[[3, 1]]]), torch.tensor([[[0, 5, 2, 2], [7, 4, 4, 1]]]))
        >>> tokens = TokenPyramid(ids=ids, codebook_sizes=(4, 8), image_size=(32, 64), fingerprint="0" * 64)
        >>> [drawn.size for drawn in token_maps(tokens, strides=(32, 16), scale=2)]
        [(128, 64), (128, 64)]
    """
    check_strides(tokens, strides)
    height, width = (side * scale for side in tokens.image_size)
    levels = zip(tokens.numpy(), strides, strict=False)
    return [_draw(ids[0], stride * scale).crop((0, 0, width, height)) for ids, stride in levels]


def map_sheet(tokens: TokenPyramid, image: Image.Image, *, strides: Sequence[int], title: str = "image") -> Image.Image:
    """Draws the image and the token map of every level side by side, enlarged so that ids can be read.

    Args:
        tokens: Tokens of one image.
        image: The photo, or what the tokens decode to.
        strides: As `token_maps` takes them.
        title: What the image is, as the title of its column.

    Raises:
        TokenError: As for `token_maps`.

    Example:
        >>> import torch
        >>> tokens = TokenPyramid(ids=(torch.tensor([[[3, 1]]]),), codebook_sizes=(4,), image_size=(32, 64), fingerprint="0" * 64)
        >>> map_sheet(tokens, Image.new("RGB", (64, 32)), strides=(32,)).width > 2 * 64
        True
    """
    scale = enlargement(tokens.image_size)
    maps = token_maps(tokens, strides=strides, scale=scale)
    captions = [
        describe_level(ids[0], size).replace(", ", "\n")
        for ids, size in zip(tokens.numpy(), tokens.codebook_sizes, strict=True)
    ]
    height, width = tokens.image_size
    return contact_sheet(
        [[enlarge_image(image, scale), *maps]],
        column_titles=[title, *(f"level {level}" for level in range(len(maps)))],
        captions=[[f"{width} x {height} px", *captions]],
    )


def enlargement(image_size: tuple[int, int]) -> int:
    """By how much a sheet enlarges an image of this height and width, at least 1: see `SIDE_PX`."""
    return max(1, round(SIDE_PX / max(image_size)))


def enlarge_image(image: Image.Image, scale: int) -> Image.Image:
    """The image with squares of `scale` pixels a side for its pixels."""
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def check_strides(tokens: TokenPyramid, strides: Sequence[int]) -> None:
    """Raises TokenError if the tokens are of several images, or the strides are not those of their levels."""
    height, width = tokens.image_size
    used = tuple(strides[: len(tokens)])
    covered = [(h * stride >= height, w * stride >= width) for (h, w), stride in zip(tokens.grids, used, strict=False)]
    if tokens.batch_size != 1 or len(used) != len(tokens) or not np.all(covered):
        raise TokenError(
            f"expected the tokens of one image and the strides of its levels, got {tokens} and {tuple(strides)}: take one of "
            "tokens.unbind() and tok.quantizer.strides"
        )


def _draw(ids: NDArray[Any], cell: int) -> Image.Image:
    """One level: squares of `cell` pixels with thin white lines between them, and ids where they fit."""
    colours = code_colours(ids)
    drawn = Image.fromarray(colours).resize((ids.shape[1] * cell, ids.shape[0] * cell), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(drawn)
    if cell >= 8:
        for x in range(0, drawn.width, cell):
            draw.line((x, 0, x, drawn.height), fill=WHITE)
        for y in range(0, drawn.height, cell):
            draw.line((0, y, drawn.width, y), fill=WHITE)
    font = ImageFont.load_default(min(max(round(cell / 3.2), 1), _MOST_TEXT_PX))
    if cell / 3.2 < _LEAST_TEXT_PX or widest([str(ids.max())], font) > cell - 2:
        return drawn
    for (row, column), number in np.ndenumerate(ids):
        if number >= 0:
            place = (column + 0.5) * cell, (row + 0.5) * cell
            draw.text(place, str(number), fill=_ink(colours[row, column]), font=font, anchor="mm")
    return drawn


def _ink(colour: NDArray[np.uint8]) -> str:
    """White on dark colours, nearly black on light ones."""
    luminance = float(np.dot((colour / 255.0) ** 2.2, (0.2126, 0.7152, 0.0722)))
    return WHITE if luminance < 0.22 else _DARK

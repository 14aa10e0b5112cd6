"""What single tokens contribute: the image decoded with a token, without it, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from pyramid_tokenizer.errors import TokenRangeError
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.visualize.highlight import highlight_cells
from pyramid_tokenizer.visualize.maps import check_strides, enlarge_image
from pyramid_tokenizer.visualize.sheets import contact_sheet

_SIDE_PX = 320
"""Small images are enlarged to about this long side."""
_LEAST_VIEW_PX = 64
"""The least side of the square around a token that is shown enlarged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """One token of one image, and the image without it."""

    level: int
    row: int
    """Row of its cell on the level's grid."""
    column: int
    """Column of its cell."""
    id: int
    with_it: Tensor
    """(3, H, W) float32 in [0, 1]: what all tokens decode to."""
    without_it: Tensor
    """(3, H, W) float32 in [0, 1]: what all tokens but this one decode to."""

    @property
    def difference(self) -> Tensor:
        """(3, H, W) float32 in [-1, 1]: what the token adds."""
        return self.with_it - self.without_it


@torch.no_grad()
def contribution(tok: PyramidTokenizer, tokens: TokenPyramid, level: int, row: int, column: int) -> Contribution:
    """Decodes one image with and without one of its tokens.

    Below level 0 a token that is left out counts as absent, and the tokens below it stay. A token of level 0, which is never
    absent, is replaced by the mean of the image's codes on that level.

    Args:
        tok: The tokenizer of the tokens.
        tokens: Tokens of one image, or a prefix of their levels.
        level: The token's level.
        row: Row of its cell on the level's grid.
        column: Column of its cell.

    Raises:
        TokenRangeError: There is no such level or cell, or the cell has no token.
        TokenError: The tokens are of several images.
        TokenMismatchError: The tokens are of another tokenizer.

    Example:
        >>> tok = PyramidTokenizer.from_pretrained("tiny")
        >>> tokens = tok.encode(torch.rand(3, 64, 64))
        >>> contribution(tok, tokens, 1, 0, 2).difference.shape
        torch.Size([3, 64, 64])
    """
    check_strides(tokens, tok.quantizer.strides)
    _check_cell(tokens, level, row, column)
    codes, present = list(tok.codes(tokens)), list(tok.present(tokens))
    if level == 0:
        codes[0] = codes[0].clone()
        codes[0][..., row, column] = codes[0].mean((2, 3))
    else:
        mask = present[level]
        mask = (
            torch.ones(codes[level][:, 0].shape, dtype=torch.bool, device=tok.device) if mask is None else mask.clone()
        )
        mask[:, row, column] = False
        codes[level] = codes[level] * mask[:, None]
        present[level] = mask
    return Contribution(
        level=level,
        row=row,
        column=column,
        id=int(tokens.ids[level][0, row, column]),
        with_it=tok.decode(tokens)[0].cpu(),
        without_it=tok._to_images(codes, tokens.image_size, tuple(present))[0].cpu(),
    )


@torch.no_grad()
def strongest_cells(tok: PyramidTokenizer, tokens: TokenPyramid) -> list[tuple[int, int]]:
    """The (row, column) of the token of each level whose code changes the linear reconstruction the most.

    On level 0 it is the one farthest from the mean colour of the image. Cells that reach beyond the image are left out, unless
    there are no others.

    Args:
        tok: The tokenizer of the tokens.
        tokens: Tokens of one image.

    Raises:
        TokenError: The tokens are of several images.
    """
    check_strides(tokens, tok.quantizer.strides)
    cells = []
    for level, (codes, mask) in enumerate(zip(tok.codes(tokens), tok.present(tokens), strict=True)):
        quantizer = tok.quantizer.level(level)
        pixels = quantizer.pixels_of(codes)[0]  # (3, p h, p w)
        pixels = pixels - pixels.mean((1, 2), keepdim=True) if level == 0 else pixels
        (height, width), side = tokens.grids[level], quantizer.patch_px
        energy = pixels.square().sum(0).unflatten(0, (height, side)).unflatten(2, (width, side)).sum((1, 3))  # (h, w)
        energy = energy if mask is None else energy.masked_fill(~mask[0], -1)
        rows, columns = (max(1, length // tok.quantizer.strides[level]) for length in tokens.image_size)
        best = int(energy[:rows, :columns].argmax())
        cells.append((best // columns, best % columns))
    return cells


def cells_at(tokens: TokenPyramid, x: int, y: int, *, strides: Sequence[int]) -> list[tuple[int, int]]:
    """The (row, column) of the token of each level at a pixel; levels without a token there are left out at the end.

    Args:
        tokens: Tokens of one image.
        x: Column of the pixel.
        y: Row of the pixel.
        strides: Pixels along each side of a cell for every level.

    Raises:
        TokenRangeError: The pixel is outside the image.
        TokenError: The tokens are of several images, or the strides do not fit them.
    """
    check_strides(tokens, strides)
    height, width = tokens.image_size
    if not (0 <= x < width and 0 <= y < height):
        raise TokenRangeError(
            f"expected a pixel within {width} x {height} px, got ({x}, {y}): give column and row of one, from 0"
        )
    cells = [(y // stride, x // stride) for stride in strides[: len(tokens)]]
    return [cell for cell, ids in zip(cells, tokens.ids, strict=True) if int(ids[0][cell]) >= 0]


def contribution_sheet(
    contributions: Sequence[Contribution], strides: Sequence[int], captions: Sequence[str]
) -> Image.Image:
    """Draws a row per token: where it is, and its surroundings with it, without it, and what it adds.

    The last image is grey where the token changes nothing; its largest change is black or white.

    Args:
        contributions: Tokens of one image.
        strides: Pixels along each side of a cell for every level.
        captions: A text for each token, of one line or several.

    Raises:
        ImageValueError: There is no token.
    """
    rows, texts = [], []
    for one, caption in zip(contributions, captions, strict=True):
        cell = strides[one.level]
        whole = to_pil(one.with_it)[0]
        scale = max(1, round(_SIDE_PX / max(whole.size)))
        box = _surroundings(one, cell)
        largest = float(one.difference.abs().max())
        grey = 0.5 + one.difference / (2 * max(largest, 1 / 255))
        views = [to_pil(pixels)[0].crop(box) for pixels in (one.with_it, one.without_it, grey)]
        height = whole.height * scale
        size = max(1, round((box[2] - box[0]) * height / (box[3] - box[1]))), height
        views = [view.resize(size, Image.Resampling.NEAREST) for view in views]
        shown = highlight_cells(enlarge_image(whole, scale), [(one.row, one.column)], cell_px=cell * scale)
        rows.append([shown, *views])
        closer = f"{box[2] - box[0]} x {box[3] - box[1]} px around it"
        texts.append([caption, closer, closer, f"at most {255 * largest:.0f} of 255"])
    return contact_sheet(
        rows,
        column_titles=["the token", "with it", "without it", "what it adds"],
        row_titles=[f"level {one.level}" for one in contributions],
        captions=texts,
    )


def _surroundings(one: Contribution, cell: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a square around the cell, moved into the image, or the whole length of a short side."""
    side = max(_LEAST_VIEW_PX, 3 * cell)
    height, width = one.with_it.shape[1:]
    left, right = _window(one.column * cell + cell // 2, side, width)
    top, bottom = _window(one.row * cell + cell // 2, side, height)
    return left, top, right, bottom


def _window(middle: int, side: int, length: int) -> tuple[int, int]:
    start = min(max(0, middle - side // 2), max(0, length - side))
    return start, min(length, start + side)


def _check_cell(tokens: TokenPyramid, level: int, row: int, column: int) -> None:
    if not 0 <= level < len(tokens):
        raise TokenRangeError(f"expected a level from 0 to {len(tokens) - 1}, got {level}: the tokens have no other")
    height, width = tokens.grids[level]
    if not (0 <= row < height and 0 <= column < width):
        raise TokenRangeError(
            f"expected a cell of the {height} x {width} of level {level}, got row {row} and column {column}: count from 0"
        )
    if int(tokens.ids[level][0, row, column]) < 0:
        raise TokenRangeError(
            f"expected a cell with a token, got row {row} and column {column} of level {level}, which is absent: choose another"
        )

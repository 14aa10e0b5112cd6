"""`overlay_tokens`: where the tokens of a sparse pyramid lie, as tinted cells over the photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyramid_tokenizer.errors import ImageValueError
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.images.read import ImageLike, read_image
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.visualize.legend import add_legend
from pyramid_tokenizer.visualize.maps import check_strides

COARSEST, FINEST = "blue", "yellow"
"""What the first and the last of `depth_colours` are called."""
_SCALE = ((47, 63, 160), (34, 150, 140), (110, 196, 90), (255, 222, 40))
"""Blue to yellow, each step lighter than the one before, so that the order also shows without colours."""


def depth_colours(count: int) -> list[tuple[int, int, int]]:
    """(red, green, blue) in 0..255 for each of `count` levels, blue for level 0 to yellow for the finest.

    Example:
        >>> depth_colours(2)
        [(47, 63, 160), (255, 222, 40)]
    """
    places = np.linspace(0, len(_SCALE) - 1, count) if count > 1 else np.zeros(1)
    parts = [np.interp(places, range(len(_SCALE)), channel) for channel in zip(*_SCALE, strict=True)]
    return [(round(red), round(green), round(blue)) for red, green, blue in zip(*parts, strict=True)]


def overlay_tokens(
    image: ImageLike, tokens: TokenPyramid, *, strides: Sequence[int], alpha: float = 0.4, legend: bool = True
) -> Image.Image:
    """Draws a grey photo with the cells of its tokens, each in the colour of the finest level that has a token there.

    Args:
        image: The photo, or what its tokens decode to, as anything that `read_image` takes, of the tokens' size.
        tokens: The tokens of this one image, sparse or full.
        strides: Pixels along each side of a cell for every level: `tok.quantizer.strides`.
        alpha: The opacity of the colours, in [0, 1]; the borders of the cells have more.
        legend: Whether a legend is drawn, with the shares of the image that have tokens of level 0 alone, of levels 0 and 1, etc.

    Returns:
        An RGB image with the photo in its top left corner and the legend below, as `overlay` arranges them.

    Raises:
        ImageValueError: The photo has another size than the tokens, or alpha is outside [0, 1]; or `read_image` refuses it.
        ImageFileError, ImageTooLargeError: As for `overlay`.
        TokenError: The tokens are of several images, or the strides do not fit them.

    Example:
        >>> from pyramid_tokenizer import PyramidTokenizer
        >>> tok = PyramidTokenizer.from_pretrained("tiny")
        >>> photo = Image.linear_gradient("L").convert("RGB")
        >>> tokens = tok.encode(photo, max_tokens=200)
        >>> overlay_tokens(photo, tokens, strides=tok.quantizer.strides, legend=False).size
        (256, 256)
    """
    if not 0 <= alpha <= 1:  # also catches NaN
        raise ImageValueError(f"expected alpha in [0, 1], got {alpha}: 0 shows the borders of cells alone")
    photo = to_pil(read_image(image))[0]
    if (photo.height, photo.width) != tokens.image_size:
        raise ImageValueError(
            f"expected a photo of the tokens' height and width {tokens.image_size}, got {(photo.height, photo.width)}: "
            "resize it as encode did"
        )
    depth, borders = _depth_and_borders(tokens, strides)
    colours = depth_colours(len(tokens))
    opacity = np.where(borders, round(255 * (1 + alpha) / 2), round(255 * alpha)).astype(np.uint8)
    tint = Image.fromarray(np.array(colours, np.uint8)[depth])
    drawn = Image.composite(tint, photo.convert("L").convert("RGB"), Image.fromarray(opacity))
    names = ["level 0", *(f"levels 0-{level}" for level in range(1, len(tokens)))]
    return add_legend(drawn, depth, names, colours) if legend else drawn


def _depth_and_borders(tokens: TokenPyramid, strides: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """(H, W) the finest level that has a token at each pixel, and whether the pixel is at the upper or left border of a cell."""
    height, width = tokens.image_size
    used = tuple(strides[: len(tokens)])
    check_strides(tokens, strides)
    depth = np.zeros((height, width), np.int64)
    for ids, stride in zip(tokens.numpy()[1:], used[1:], strict=True):
        # nothing is present below an absent cell: each level present adds one
        depth += (ids[0] >= 0).repeat(stride, 0).repeat(stride, 1)[:height, :width]
    side = np.array(used)[depth]
    rows, columns = np.indices((height, width), sparse=True)
    return depth, (rows % side == 0) | (columns % side == 0)

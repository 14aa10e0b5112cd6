"""`overlay`: draws a label map as colours over the photo, with a legend of the classes that occur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor
from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_kinds
from pyramid_tokenizer.errors import ImageValueError
from pyramid_tokenizer.images.labelled.labels import NO_CLASS
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.images.read import ImageLike, read_image
from pyramid_tokenizer.tokens.palette import class_colour
from pyramid_tokenizer.visualize.legend import add_legend

_Colour: TypeAlias = tuple[int, int, int]


def overlay(
    image: ImageLike,
    labels: Tensor | NDArray[Any],
    names: Sequence[str],
    *,
    alpha: float = 0.55,
    palette: Sequence[str | tuple[int, int, int]] | None = None,
    legend: bool = True,
) -> Image.Image:
    """Draws a photo with each class in its colour, with thin borders in the full colour and a legend below.

    The legend lists the classes that occur, the most frequent first, each with its share of the image. If there is no room for
    all of them, it says how many are left out. A name in letters that no installed font has is shown as "class 7", with a
    warning.

    Args:
        image: The photo, as anything that `read_image` takes, of (H, W) pixels.
        labels: (H, W) integers: the index of each pixel's class in `names`. Pixels with -1 have no class and no colour.
        names: The names of the classes.
        alpha: The opacity of the colours, in [0, 1]; 0 shows the borders only.
        palette: A colour for each name, as "#rrggbb", a CSS name or (red, green, blue) in 0..255. The default is `class_colour`,
            which gives an index the same colour in every image.
        legend: Whether the legend is drawn.

    Returns:
        An RGB image with the photo in its top left corner and the legend below. It is wider than the photo if the photo is
        narrower than one entry of the legend.

    Raises:
        ImageValueError: The labels have another size than the photo, are not integers or have no name; alpha is outside
            [0, 1]; there are fewer colours than names, or a colour of another kind; or `read_image` refuses the image.
        ImageFileError: `read_image` cannot read the file.
        ImageTooLargeError: `read_image` finds the image too large.

    Example:
        >>> labels = np.repeat([[-1, 0, 2]], 60, axis=1).repeat(90, axis=0)
        >>> image = overlay(Image.new("RGB", (180, 90)), labels, ["cat", "dog", "grass"])
        >>> image.width, image.height > 90
        (180, True)
    """
    check_kinds(names, str, name="names", fix='write e.g. ["cat", "dog"]', error=ImageValueError)
    if not 0 <= alpha <= 1:  # also catches NaN
        raise ImageValueError(f"expected alpha in [0, 1], got {alpha}: 0 shows the photo, 1 the colours")
    photo = to_pil(read_image(image))[0]
    classes = _read_labels(labels, size=(photo.height, photo.width), num_names=len(names))
    colours = _read_palette(palette, len(names))
    drawn = _to_images(photo, classes, colours, alpha)
    return add_legend(drawn, classes, names, colours) if legend else drawn


def _read_labels(labels: Tensor | NDArray[Any], *, size: tuple[int, int], num_names: int) -> NDArray[Any]:
    try:
        array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; sparse tensors, and those on "meta"
        got = type(labels).__name__
        raise ImageValueError(f"expected labels as an array or tensor (H, W), got {got}: {error}") from error
    if array.dtype.kind not in "iu":
        raise ImageValueError(f"expected integer labels, got {array.dtype}: give each pixel the index of its class")
    if array.shape != size:
        raise ImageValueError(
            f"expected labels of the photo's height and width {size}, got {array.shape}: resize one of them (labels by "
            "nearest neighbour), and pass one map without batch axis"
        )
    low, high = int(array.min()), int(array.max())
    if low < NO_CLASS or high >= num_names:
        raise ImageValueError(
            f"expected labels from -1 to {num_names - 1} for {num_names} names, got {low} to {high}: add the names, and set "
            "pixels of no class to -1"
        )
    return array


def _read_palette(palette: Sequence[str | _Colour] | None, count: int) -> list[_Colour]:
    if palette is None:
        return [class_colour(index) for index in range(count)]
    if len(palette) < count:
        raise ImageValueError(
            f"expected a colour for each of {count} names, got {len(palette)}: add colours, or palette=None for as many as "
            "needed"
        )
    return [_read_colour(colour) for colour in palette[:count]]


def _read_colour(colour: str | _Colour) -> _Colour:
    try:
        values = ImageColor.getrgb(colour)[:3] if isinstance(colour, str) else tuple(int(value) for value in colour)
        red, green, blue = values
    except (ValueError, TypeError):
        red = green = blue = -1
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ImageValueError(f'expected a colour as "#rrggbb" or three numbers in 0..255, got {colour!r}: correct it')
    return red, green, blue


def _to_images(photo: Image.Image, classes: NDArray[Any], colours: Sequence[_Colour], alpha: float) -> Image.Image:
    table = np.array([*colours, (0, 0, 0)], dtype=np.uint8)  # index -1 takes the last entry
    opacity = np.where(_borders(classes), 255, round(255 * alpha)).astype(np.uint8)
    opacity[classes == NO_CLASS] = 0
    return Image.composite(Image.fromarray(table[classes]), photo, Image.fromarray(opacity))


def _borders(classes: NDArray[Any]) -> NDArray[np.bool_]:
    """(H, W): whether a pixel of another class is near."""
    borders = np.zeros(classes.shape, dtype=bool)
    for step in range(1, max(1, round(min(classes.shape) / 500)) + 1):
        for axis in (0, 1):
            before, after = np.moveaxis(classes, axis, 0)[:-step], np.moveaxis(classes, axis, 0)[step:]
            differs, marks = before != after, np.moveaxis(borders, axis, 0)
            marks[:-step] |= differs
            marks[step:] |= differs
    return borders

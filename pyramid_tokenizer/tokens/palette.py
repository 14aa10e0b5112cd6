"""Stable colours: `class_colour` of a class index, `code_colours` of codes; people with colour-blindness tell them apart too."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Chosen greedily, each as far as it gets from those before it: the least OKLab distance as seen by normal, protan and
# deutan eyes (simulated after Machado et al. 2009), of colours that are neither near black, white nor grey.
# CIELAB distances (1976) of any two, at least, for protan, deutan and tritan eyes: 22.8 among the first 8, 15.6 among the
# first 10, 7.9 among all (tests/tokens/test_palette.py).
PALETTE = (
    *("#0676a2", "#e77604", "#c62113", "#1fd9bf", "#ce79fd", "#5c03ba", "#f6d32b", "#703756"),
    *("#5b5cfa", "#f9bcfd", "#5d9e77", "#ce168f", "#29733f", "#8b85c2", "#c1b06c", "#5af88a"),
    *("#d28da8", "#8f0e8a", "#5eb1cd", "#fc5769", "#8e32d2", "#ae5a66", "#892504", "#1bab2c"),
)
"""The first 24 colours."""

ABSENT_COLOUR = (238, 238, 238)
"""(red, green, blue) of a cell without a token."""

_GOLDEN = (5**0.5 - 1) / 2  # steps of this part of the circle never bunch up
_LIGHTNESS = (0.45, 0.7, 0.3)


def class_colour(index: int) -> tuple[int, int, int]:
    """(red, green, blue) in 0..255 of the class with that index, from 0; the same in every image.

    Example:
        >>> class_colour(1), class_colour(1000)
        ((231, 118, 4), (212, 236, 121))
    """
    if index < len(PALETTE):
        value = int(PALETTE[index][1:], 16)
        return value >> 16, value >> 8 & 255, value & 255
    step = index - len(PALETTE)
    red, green, blue = colorsys.hls_to_rgb(step * _GOLDEN % 1, _LIGHTNESS[step % len(_LIGHTNESS)], 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def code_colours(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """The colour of each id of a level, the same in every image and file; -1, an absent cell, is light grey.

    Codes share the 24 colours of `PALETTE` by id modulo 24: with more of them, nobody could tell neighbours apart.

    Args:
        ids: (...) integers from -1.

    Returns:
        (..., 3) red, green and blue in 0..255.

    Example:
        >>> code_colours(np.array([0, 24, -1])).tolist()
        [[6, 118, 162], [6, 118, 162], [238, 238, 238]]
    """
    table = np.array([*map(class_colour, range(len(PALETTE))), ABSENT_COLOUR], np.uint8)
    return table[np.where(ids < 0, len(PALETTE), ids % len(PALETTE))]

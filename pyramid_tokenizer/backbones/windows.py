"""A large image through any backbone, window by window: where the windows lie, and how what they give becomes one map.

A backbone whose units reach over the whole image, such as a ViT, cannot be run on bands of rows (`rows.py`). In windows it
needs the memory of a window, but no cell sees what lies outside its own: the maps differ from those of the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

OVERLAP = 4
"""Two neighbours share at least this part of their side: a fourth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Overlapping windows of one size that cover an image. `Windows.of` makes them.

    Example:
        >>> windows = Windows.of((96, 256), window_px=128, multiple_px=32)
        >>> windows.size, windows.tops, windows.lefts
        ((96, 128), (0,), (0, 64, 128))
    """

    size: tuple[int, int]
    """(h, w) of a window in pixels."""
    tops: tuple[int, ...]
    """The first row of each row of windows, in pixels."""
    lefts: tuple[int, ...]
    """The first column of each column of windows."""

    @classmethod
    def of(cls, image_size: Sequence[int], *, window_px: int, multiple_px: int) -> Windows:
        """Windows spread evenly over an image, as few as overlap by `OVERLAP`.

        Args:
            image_size: (H, W), multiples of `multiple_px`.
            window_px: Side of a window, a multiple of `multiple_px`; a side of the image that is shorter is read whole.
            multiple_px: Windows begin at multiples of this.
        """
        (height, tops), (width, lefts) = (_spread(side, window_px, multiple_px) for side in image_size)
        return cls(size=(height, width), tops=tops, lefts=lefts)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """The first row and column of every window, row by row."""
        return list(product(self.tops, self.lefts))


def _spread(side: int, window_px: int, multiple_px: int) -> tuple[int, tuple[int, ...]]:
    """The extent of windows along a side of the image, and where they begin."""
    if side <= window_px:
        return side, (0,)
    window, rest = window_px // multiple_px, (side - window_px) // multiple_px
    most = window - -(-window // OVERLAP)  # steps between two neighbours
    gaps = -(-rest // most)
    return window_px, tuple(number * rest // gaps * multiple_px for number in range(gaps + 1))


class JoinedMap:
    """A map of the whole image, joined from maps of its windows.

    Where windows overlap, the map is their mean, weighted by the distance to the border of each: from one window to the next it
    changes along a linear ramp.

    Args:
        windows: Of the image.

    Example:
        >>> windows = Windows.of((64, 256), window_px=128, multiple_px=32)
        >>> joined = JoinedMap(windows)
        >>> joined.add(windows.corners, torch.tensor([0.0, 3.0, 6.0]).view(3, 1, 1, 1).expand(3, 1, 2, 4))
        >>> joined.whole[0, 0, 0].tolist()
        [0.0, 0.0, 0.75, 2.25, 3.75, 5.25, 6.0, 6.0]
    """

    def __init__(self, windows: Windows):
        self._windows = windows
        self._whole: Tensor | None = None
        self._rows, self._columns = torch.empty(0), torch.empty(0)  # shares, made for the stride of the first maps

    @property
    def whole(self) -> Tensor:
        """(1, C, H / s, W / s) float32, when all windows have come; s is the stride of the maps."""
        if self._whole is None:
            raise ValueError("expected the maps of all windows, got none")
        return self._whole

    def add(self, corners: Sequence[tuple[int, int]], maps: Tensor) -> None:
        """Takes the maps of some windows.

        Args:
            corners: Of the windows.
            maps: (N, C, h, w) float32, of N windows.
        """
        cells = maps.shape[2:]
        stride = self._windows.size[0] // cells[0]
        if self._whole is None:
            self._rows, self._columns = (
                _shares([first // stride for first in firsts], count, like=maps)
                for firsts, count in zip((self._windows.tops, self._windows.lefts), cells, strict=True)
            )
            self._whole = maps.new_zeros(1, maps.shape[1], self._rows.shape[1], self._columns.shape[1])
        for (top, left), own in zip(corners, maps, strict=True):
            place = slice(top // stride, top // stride + cells[0]), slice(left // stride, left // stride + cells[1])
            down = self._rows[self._windows.tops.index(top), place[0]]
            across = self._columns[self._windows.lefts.index(left), place[1]]
            self._whole[0, :, *place] += down[:, None] * across * own


def _shares(firsts: Sequence[int], cells: int, *, like: Tensor) -> Tensor:
    """How much each window along a side counts in each cell of the whole side: (windows, cells of the side).

    Args:
        firsts: The first cell of each window.
        cells: Of a window.
        like: A tensor of the result's device and dtype.

    Example:
        >>> _shares([0, 2], 4, like=torch.zeros(1)).tolist()
        [[1.0, 1.0, 0.75, 0.25, 0.0, 0.0], [0.0, 0.0, 0.25, 0.75, 1.0, 1.0]]
    """
    from_start = torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5
    from_border = torch.minimum(from_start, from_start.flip(0))
    shares = like.new_zeros(len(firsts), firsts[-1] + cells)
    for own, first in zip(shares, firsts, strict=True):
        own[first : first + cells] = from_border
    return shares / shares.sum(0)

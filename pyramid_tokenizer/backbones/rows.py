"""A large image through a convolutional network, row by row: the same values as of the whole image, in the memory of a band.

A network that is a chain of units (blocks, downsamplings) runs on bands of rows. Each unit keeps the few rows that its next
results also depend on, its *halo*, so that nothing is computed twice but those rows, however deep the network is: the halo of
the whole chain, some hundred pixels, is never needed.

The halo of a unit is measured and not told: a row of NaN goes in, and the rows that come out as NaN depend on it. A unit whose
results depend on all rows, such as one with squeeze-excite, global normalisation or attention, waits for the whole map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

Layer = Callable[[Tensor], Tensor]

FLOATS_PER_RUN = 2**20
"""A unit runs when it has this many new numbers to read, 4 MB. Measured with `tiny` at 4096 x 4096 px: twice as many take the
same time and 6 bytes a pixel more."""

HALOS_PER_RUN = 16
"""It also waits for this many times the rows of its halo: it then computes an eighth of its rows twice."""

_PROBE_GROUPS = 48
"""Groups of rows of the map by which a halo is measured; a halo of half of them is taken for one of all rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A part of a network that reads the map of the part before it."""

    run: Layer
    """(B, C, h, w) -> (B, C', h / ratio, w / ratio)."""
    block: int | None = None
    """The index of the block whose map it gives; None inside a block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """Which rows of its input a row of a unit's result depends on."""

    ratio: int
    """Rows of the input for each row of the result."""
    halo: int | None
    """Rows before and after these that it also depends on; None for all rows."""


def measure_reach(run: Layer, x: Tensor) -> Reach:
    """The reach of a unit, by a row of NaN in each of the places that a row can have in the unit's stride.

    Args:
        run: The unit.
        x: (1, C, h, w), a small map that it can read, of the device and dtype of its weights.

    Example:
        >>> conv = torch.nn.Conv2d(2, 2, 5, stride=2, padding=2)
        >>> with torch.no_grad():
        ...     measure_reach(conv, torch.zeros(1, 2, 8, 8))
        Reach(ratio=2, halo=2)
    """
    ratio = x.shape[2] // run(x).shape[2]
    middle, halos = _PROBE_GROUPS // 2 * ratio, [0]
    for row in range(middle, middle + ratio):
        probe = x.new_ones(1, x.shape[1], _PROBE_GROUPS * ratio, x.shape[3])
        probe[:, :, row] = float("nan")
        rows = run(probe).isnan().any(3).any(1)[0].nonzero().flatten().tolist()
        if not rows or rows[0] == 0 or rows[-1] == _PROBE_GROUPS - 1:
            return Reach(ratio=ratio, halo=None)
        halos += [rows[-1] * ratio - row, row - (rows[0] * ratio + ratio - 1)]
    return Reach(ratio=ratio, halo=max(halos))


@dataclass(kw_only=True)
class RowStream:
    """A unit that reads rows as they come, from the top, and gives the rows of its result that are whole.

    Example:
        >>> x, conv = torch.rand(1, 2, 12, 4), torch.nn.Conv2d(2, 3, 3, padding=1)
        >>> stream = RowStream(run=conv, reach=Reach(ratio=1, halo=1))
        >>> with torch.no_grad():
        ...     parts = [stream.push(x[:, :, :5]), stream.push(x[:, :, 5:], last=True)]
        ...     parts[0] is None, torch.allclose(parts[1], conv(x))  # five rows of two channels are not worth a run
        (True, True)
    """

    run: Layer
    """(B, C, h, w) -> (B, C', r h, w'), h a multiple of `reach.ratio`."""
    reach: Reach
    _kept: list[Tensor] = field(default_factory=list)
    """Rows from `_first` on."""
    _first: int = 0
    _done: int = 0
    """Rows whose results were given; both are multiples of the ratio."""

    def push(self, rows: Tensor, *, last: bool = False) -> Tensor | None:
        """The next rows of the result; None where there are none yet, which cannot be for the last rows.

        Args:
            rows: (B, C, h, w), the next rows of the input, at least one.
            last: Whether no more follow; all rows together are then a multiple of the ratio.
        """
        self._kept.append(rows)
        ratio, halo = self.reach.ratio, self.reach.halo
        end = (self._first + sum(part.shape[2] for part in self._kept)) // ratio * ratio
        done = end if last else 0 if halo is None else (end - halo) // ratio * ratio
        if not last and (done <= self._done or not self._is_enough(done - self._done, rows)):
            return None
        # a clone is dense and keeps the order of its numbers in memory, as the unit would find it in the whole map
        held = torch.cat(self._kept, 2) if len(self._kept) > 1 else rows.clone()
        found = self.run(held[:, :, : end - self._first])
        first, stop = ((row - self._first) * found.shape[2] // (end - self._first) for row in (self._done, done))
        start = max(0, done - (halo or 0)) // ratio * ratio
        self._kept = [held[:, :, start - self._first :].clone()] if not last else []
        self._first, self._done = start, done
        return found[:, :, first:stop]

    def _is_enough(self, count: int, rows: Tensor) -> bool:
        """Whether it is worth running for a number of new rows like these."""
        return count * rows[:, :, 0].numel() >= FLOATS_PER_RUN and count >= HALOS_PER_RUN * (self.reach.halo or 0)


def with_last(bands: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Each band, and whether it is the last one."""
    waiting: Tensor | None = None
    for band in bands:
        if waiting is not None:
            yield waiting, False
        waiting = band
    if waiting is not None:
        yield waiting, True

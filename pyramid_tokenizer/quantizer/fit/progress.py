"""How far a gradient-free fit is: one share of the whole, and the stage in plain words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.checks.arguments import shown
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.quantizer.fit.kept import Samples

Progress = Callable[[str, float], None]
"""Is called with the stage of a fit, such as "level 0: k-means", and the share of the whole fit that is done, in [0, 1]. The
shares never fall, and the last one is 1."""


def stage_sizes(num_levels: int) -> list[float]:
    """About how long the stages of a fit take: the backbone with the first level's cells, its k-means, and so on.

    The backbone counts as much as all later stages together. Measured with 320 crops of 160 px on the small backbone of `tiny`:
    6 s of 30; larger backbones take more than half.

    Example:
        >>> stage_sizes(2)
        [6.0, 2.0, 1.0, 2.0, 1.0]
    """
    later = [2.0, *[1.0, 2.0] * (num_levels - 1), 1.0]
    return [sum(later), *later]


class FitProgress:
    """Turns the stages of a fit and the batches that each reads into calls of a `Progress`.

    Args:
        tell: What is called; None for nothing.
        sizes: The share of each stage in the whole, in the order of `begin`; they are scaled to a sum of 1.
        num_batches: Batches of images; None where they are counted while they are read for the first time.

    Raises:
        ConfigError: `tell` cannot be called.

    Example:
        >>> progress = FitProgress(lambda stage, share: print(stage, share), sizes=(3, 1))
        >>> progress.begin("cells")
        cells 0.0
        >>> progress.begin("k-means")
        k-means 0.75
        >>> progress.end()
        k-means 1.0
    """

    def __init__(self, tell: Progress | None, *, sizes: Sequence[float], num_batches: int | None = None):
        if tell is not None and not callable(tell):
            raise ConfigError(
                f"expected progress as a function of a stage and a share, got {shown(tell)}: pass one, e.g. print, or None"
            )
        self._tell, self._num_batches = tell, num_batches
        ends = [sum(sizes[:count]) / sum(sizes) for count in range(len(sizes) + 1)]
        self._parts = itertools.pairwise(ends)
        self._stage, self._part, self._share = "", (0.0, 0.0), 0.0

    def begin(self, stage: str) -> None:
        """Tells that the next stage begins."""
        self._stage, self._part = stage, next(self._parts)
        self._at(0.0)

    def end(self) -> None:
        """Tells that the fit is done."""
        self._part = (1.0, 1.0)
        self._at(1.0)

    def over(self, samples: Samples) -> Samples:
        """The same batches; each that was used moves the present stage on."""

        def counted() -> Iterator[tuple[FeaturePyramid, Tensor]]:
            count = 0
            for count, batch in enumerate(samples(), start=1):
                yield batch
                self._at(count / self._num_batches if self._num_batches else 0.0)
            self._num_batches = count

        return counted

    def _at(self, done: float) -> None:
        """Tells the share, `done` of the present stage in [0, 1]; a stage that reads its batches twice stays at its end."""
        start, end = self._part
        self._share = max(self._share, start + (end - start) * min(done, 1.0))
        if self._tell is not None:
            self._tell(self._stage, self._share)

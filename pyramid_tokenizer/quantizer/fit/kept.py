"""Keeps the features of a sample of images, so that a fit of several levels runs the backbone once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid

Samples = Callable[[], Iterable[tuple[FeaturePyramid, Tensor]]]
"""A function that gives the same batches at each call: features (made with `with_dense=True`) and their images."""

MEMORY_BUDGET = 2 * 1024**3
"""Bytes of features and images that are kept in memory; the others go to temporary files. Crops of 160 px take .8 MB each on a
ViT-B-16: of 4,800, the default of a fit, more than half stay in memory."""


class KeptSamples:
    """The batches of a `Samples`, which is called once: later calls replay what the first one gave.

    Kept are the images, the dense features, the embedding and the maps that levels read; other maps lose their channels.

    Args:
        samples: Where the batches come from.
        maps: Indices of the maps to keep.
        budget: Bytes to keep in memory; further batches are kept in a temporary folder until the `with` block ends.

    Example:
        >>> from pyramid_tokenizer.backbones import ToyBackbone
        >>> calls, backbone, images = [], ToyBackbone(), torch.rand(2, 3, 32, 32)
        >>> def samples():
        ...     calls.append("the backbone runs")
        ...     yield backbone(images, with_dense=True), images
        >>> with KeptSamples(samples, maps=(2,)) as kept:
        ...     shapes = [[tuple(m.shape) for m in features.maps] for _ in range(3) for features, _ in kept()]
        >>> len(calls), shapes[2]
        (1, [(2, 0, 1, 1), (2, 0, 2, 2), (2, 16, 4, 4), (2, 0, 8, 8)])
    """

    def __init__(self, samples: Samples, *, maps: Collection[int], budget: int = MEMORY_BUDGET):
        self._samples, self._maps, self._budget = samples, frozenset(maps), budget
        self._kept: list[tuple[FeaturePyramid, Tensor] | Path] = []
        self._whole = False
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> KeptSamples:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._kept.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def __call__(self) -> Iterator[tuple[FeaturePyramid, Tensor]]:
        """The batches, on the device they were made on."""
        if self._whole:
            for kept in self._kept:
                yield _read(kept) if isinstance(kept, Path) else kept
            return
        self._kept.clear()  # of a call that was not read to its end
        used = 0
        for features, images in self._samples():
            batch = self._thinned(features), images
            used += _num_bytes(batch)
            self._kept.append(batch if used <= self._budget else self._write(batch))
            yield batch
        self._whole = True

    def _thinned(self, features: FeaturePyramid) -> FeaturePyramid:
        maps = (m if i in self._maps else m.new_empty(len(m), 0, *m.shape[2:]) for i, m in enumerate(features.maps))
        return replace(features, maps=tuple(maps))

    def _write(self, batch: tuple[FeaturePyramid, Tensor]) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="pyramid-tokenizer-fit-")
        features, images = batch
        file = Path(self._folder.name) / f"{len(self._kept)}.pt"
        named = {"strides": features.strides, "maps": features.maps, "embedding": features.embedding}
        torch.save({**named, "dense": features.dense, "images": images}, file)
        return file


def _read(file: Path) -> tuple[FeaturePyramid, Tensor]:
    found = torch.load(file, weights_only=True)
    images = found.pop("images")
    return FeaturePyramid(**found), images


def _num_bytes(batch: tuple[FeaturePyramid, Tensor]) -> int:
    features, images = batch
    tensors = (*features.maps, features.embedding, features.dense, images)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)

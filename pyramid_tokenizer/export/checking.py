"""Compares an exported part with the model that it was made of, before it gets its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramid_tokenizer.errors import ExportError
from pyramid_tokenizer.images.synthetic import synthetic_images
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens import TokenPyramid

MOST_IDS = 1e-4
"""The largest share of ids that may differ: equal distances to two entries are decided by rounding."""
MOST_PIXELS = 1e-3
"""The largest difference of a pixel in [0, 1]."""
MOST_EMBEDDING = 1e-4
"""The largest difference of a number of an embedding of unit norm."""

Run = Callable[[Sequence[NDArray[np.generic]]], list[NDArray[np.generic]]]
"""Runs a part: its inputs, in order -> its outputs, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Differences:
    """How far a part is from the model, over all images that were compared."""

    part: str
    """"encode", "decode" or "embed"."""
    compared: int
    """Ids, pixels or numbers of embeddings."""
    differ: int = 0
    """Ids that differ; of "encode" alone."""
    largest: float = 0.0
    """The largest difference of a pixel or of a number of an embedding."""

    @property
    def passes(self) -> bool:
        """Whether the part gives what the model gives, within what rounding explains."""
        limits = {"encode": self.differ / self.compared <= MOST_IDS, "decode": self.largest <= MOST_PIXELS}
        return limits.get(self.part, self.largest <= MOST_EMBEDDING)

    def __str__(self) -> str:
        if self.part == "encode":
            return f"{self.differ:,} of {self.compared:,} ids differ"
        what = "pixels" if self.part == "decode" else "numbers of embeddings"
        return f"{self.compared:,} {what} differ by {self.largest:.1e} at most"

    def require(self) -> None:
        """Raises ExportError where it does not pass."""
        if not self.passes:
            limit = {"encode": f"{MOST_IDS:.0e} of the ids", "decode": f"{MOST_PIXELS:.0e}"}.get(
                self.part, f"{MOST_EMBEDDING:.0e}"
            )
            raise ExportError(
                f"expected {self.part} to differ from the model by at most {limit}, got: {self}; nothing is written. Another "
                "version of torch, onnxscript or onnxruntime may compute it right"
            )


def compare(tok: PyramidTokenizer, part: str, run: Run, size: tuple[int, int] | None) -> Differences:
    """The differences of a part from the model, on synthetic images in batches of 1 and 8.

    Args:
        tok: The model, in float32.
        part: "encode", "decode" or "embed".
        run: Runs the exported part.
        size: (H, W) that it takes; None for all sizes, of which three are tried.
    """
    compared, differ, largest = 0, 0, 0.0
    for images in _batches(tok, size):
        tokens = tok.encode(images, levels=len(tok.quantizer.levels))
        if part == "encode":
            found = run([images.numpy()])
            expected = [*tokens.ids, *([tokens.image_ids] if tokens.image_codebook_sizes else [])]
            differ += sum(int((torch.from_numpy(a) != b).sum()) for a, b in zip(found, expected, strict=True))
            compared += sum(ids.numel() for ids in expected)
            continue
        for inputs, expected in _cases(tok, part, tokens):
            found = torch.from_numpy(run([ids.numpy() for ids in inputs])[0])
            largest = max(largest, float((found - expected).abs().max()))
            compared += expected.numel()
    return Differences(part=part, compared=compared, differ=differ, largest=largest)


def _batches(tok: PyramidTokenizer, size: tuple[int, int] | None) -> Iterator[Tensor]:
    """Batches of images that a part takes as they are: of 1 and of 8."""
    step = tok.multiple_px
    near = max(2, round(256 / step)) * step
    sizes = [size] if size is not None else [(near, near), (step, 2 * step), (near + step, near - step)]
    for height, width in sizes:
        images = torch.from_numpy(synthetic_images(9, height, width)).float() / 255
        yield images[:1]
        yield images[1:]


def _cases(tok: PyramidTokenizer, part: str, tokens: TokenPyramid) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Inputs of a part of every prefix of levels, and what the model gives for them."""
    count = len(tokens) if part == "decode" else tok.quantizer.base_levels
    for levels in range(1, count + 1):
        ids = [own if level < levels else torch.full_like(own, -1) for level, own in enumerate(tokens.ids[:count])]
        if part == "decode":
            yield ids, tok.decode(tokens[:levels])
        else:
            image_ids = [tokens.image_ids] if tokens.image_codebook_sizes else []
            yield [*ids, *image_ids], tok.embedding(tokens[:levels])

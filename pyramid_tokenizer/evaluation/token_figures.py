"""`token_figures`: which classes the codes of each level stand for on a labelled set, and what masks they would give."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.evaluation.token_semantics import LevelSemantics, TokenSemantics, oracle_scores
from pyramid_tokenizer.images.labelled.sets import Sample
from pyramid_tokenizer.images.read import read_image
from pyramid_tokenizer.tokenizer import PyramidTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFigures:
    """The figures of one level. Shares are in [0, 1], or nan if nothing was counted for them."""

    stride: int
    """Image pixels along each side of a cell."""
    codebook_size: int
    """The number K of codebook entries."""
    num_seen: int
    """How many codes cover a labelled pixel."""
    purity: float
    """Share of pixels that have the most frequent class of their code. It grows with K, see `LevelSemantics`."""
    majority_share: float
    """Share of pixels that have the most frequent class of the set: the purity of a codebook with one entry."""
    oracle_miou: float
    """`miou_present` on the odd samples, if every code is labelled by its most frequent class on the even samples."""
    oracle_accuracy: float
    """Pixel accuracy of the same masks."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for a JSON file, in which NaN becomes None."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def token_figures(
    tok: PyramidTokenizer, samples: Iterable[Sample], *, num_classes: int, short_side_px: int | None = None
) -> tuple[TokenFigures, ...]:
    """Computes the figures of every level that is no detail level, coarse to fine. Each image is encoded as a whole.

    The codes are labelled on the even samples and measured on the odd ones.

    Args:
        tok: A fitted tokenizer.
        samples: Two labelled images or more.
        num_classes: The number of classes N.
        short_side_px: Images and labels are resized to this short side first; None keeps their size.

    Raises:
        DataError: There are fewer than two samples, or an image has another size than its labels.
        ImageError: An image cannot be read.

    Example:
        >>> import torch
        >>> tok = PyramidTokenizer.from_pretrained("tiny")
        >>> labels = torch.zeros(64, 64, dtype=torch.int64)
        >>> samples = [Sample(image=torch.rand(3, 64, 64), labels=labels, name=str(i)) for i in range(2)]
        >>> [(level.stride, level.purity) for level in token_figures(tok, samples, num_classes=2)]
        [(32, 1.0), (16, 1.0), (8, 1.0)]
    """
    levels = tok.quantizer.base_levels  # detail levels hold pixels alone
    sizes, strides = tok.quantizer.codebook_sizes[:levels], tok.quantizer.strides[:levels]
    halves = [TokenSemantics(sizes, strides=strides, num_classes=num_classes) for _ in range(2)]
    count = 0
    for count, sample in enumerate(samples, start=1):
        image, labels = read_image(sample.image), sample.labels
        if image.shape[1:] != labels.shape:
            got = f"{tuple(image.shape[1:])} for labels {tuple(labels.shape)}"
            raise DataError(
                f"expected an image of the size of its labels, got {got} in {sample.name!r}: make the labels anew"
            )
        if short_side_px is not None:
            image = read_image(image, size=short_side_px)
            labels = F.interpolate(labels[None, None].double(), image.shape[1:], mode="nearest-exact")[0, 0].long()
        halves[(count - 1) % 2].add(tok.encode(image).ids, labels[None])
    if count < 2:
        raise DataError(
            f"expected two samples or more, got {count}: codes are labelled on one half and measured on the other"
        )
    pairs = zip(*(half.levels for half in halves), strict=True)
    return tuple(_figures(stride, even, odd) for stride, (even, odd) in zip(strides, pairs, strict=True))


def _figures(stride: int, even: LevelSemantics, odd: LevelSemantics) -> TokenFigures:
    both = LevelSemantics(counts=even.counts + odd.counts)
    oracle = oracle_scores(even, odd)
    return TokenFigures(
        stride=stride,
        codebook_size=len(both.counts),
        num_seen=both.num_seen,
        purity=both.mean_purity,
        majority_share=both.majority_share,
        oracle_miou=oracle.miou_present,
        oracle_accuracy=oracle.pixel_accuracy,
    )

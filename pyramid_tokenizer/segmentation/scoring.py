"""The best class of every pixel, some classes at a time, so that memory does not grow with their number."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.images.labelled.labels import NO_CLASS
from pyramid_tokenizer.text import VocabularyEmbeddings

Scorer = Callable[[slice], Tensor]
"""A range of phrases -> their scores (B, P', h, w) per cell."""

CHUNK_FLOATS = 2**24
"""Scores held at a time: 64 MB."""


def grid_of(cells: Tensor) -> tuple[int, int, int]:
    """Batch size, rows and columns of maps (B, D, h, w)."""
    batch, _, height, width = cells.shape
    return batch, height, width


def scorer_of(cells: Tensor, text: VocabularyEmbeddings) -> Scorer:
    """The scorer of cells with embeddings (B, D, h, w): their products with the phrases."""
    embeddings = text.embeddings.to(cells.device)
    return lambda part: torch.einsum("bdhw,pd->bphw", cells, embeddings[part])


def argmax_by_chunks(chunks: Iterable[tuple[int, Tensor]], *, dim: int) -> tuple[Tensor, Tensor]:
    """Index and score of the best class where the scores of all classes come some classes at a time.

    Args:
        chunks: The index of the chunk's first class, and scores with the chunk's classes along `dim`; in increasing order.
            All have one shape but for `dim`.
        dim: The dimension of the classes, which the results do not have.

    Returns:
        Indices, int64, and scores. Of classes with equal scores the first wins, as in one `argmax`.

    Example:
        >>> scores = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.5, 0.9]])  # of 3 classes at 2 pixels
        >>> argmax_by_chunks([(0, scores[:1]), (1, scores[1:])], dim=0)
        (tensor([1, 0]), tensor([0.5000, 0.9000]))
    """
    best: tuple[Tensor, Tensor] | None = None
    for first, scores in chunks:
        top, index = scores.max(dim)
        if best is None:
            best = index + first, top
        else:
            better = top > best[1]
            best = torch.where(better, index + first, best[0]), torch.where(better, top, best[1])
    if best is None:
        raise ValueError("expected the scores of one class or more, got none")
    return best


def best_classes(
    score: Scorer,
    text: VocabularyEmbeddings,
    *,
    grid: tuple[int, int, int],
    image_size: tuple[int, int] | None,
    stride: int,
) -> tuple[Tensor, Tensor]:
    """The best class of every pixel and its score.

    A class has the highest score of its synonyms in a cell. Scores of classes are enlarged bilinearly to pixels and cut to
    the image.

    Args:
        score: Gives the scores (B, P', h, w) of a range of phrases.
        text: The phrases.
        grid: B, h, w.
        image_size: (H, W) of the result; None for one label per cell.
        stride: Pixels per cell.

    Returns:
        Labels (B, H, W) int64, `NO_CLASS` for the background, and scores (B, H, W) float32.
    """
    floats_each = math.prod(grid) * (1 if image_size is None else stride**2)

    def chunks() -> Iterator[tuple[int, Tensor]]:
        for first, phrases, classes in _chunks(text, CHUNK_FLOATS // floats_each):
            scores = classes.class_scores(score(phrases), dim=1)  # (B, n, h, w)
            if image_size is not None:
                scores = enlarge(scores, stride)[..., : image_size[0], : image_size[1]]
            yield first, scores

    labels, best = argmax_by_chunks(chunks(), dim=1)
    return torch.where(labels == text.num_classes, NO_CLASS, labels), best.float()


def _chunks(text: VocabularyEmbeddings, size: int) -> Iterator[tuple[int, slice, VocabularyEmbeddings]]:
    """First class, range of phrases, and the vocabulary of classes with up to `size` phrases together, or of a single one.

    Phrases come class by class, the background's at the end; it joins the last classes.
    """
    owner = torch.where(text.owner == NO_CLASS, text.num_classes, text.owner)
    starts = torch.searchsorted(owner, torch.arange(text.num_classes + 1)).tolist()  # the last is the background's
    first = 0
    while first < text.num_classes:
        last = max(first + 1, bisect_right(starts, starts[first] + size) - 1)
        phrases = slice(starts[first], len(owner) if last == text.num_classes else starts[last])
        own = text.owner[phrases]
        classes = VocabularyEmbeddings(
            names=text.names[first:last],
            embeddings=text.embeddings[phrases],
            owner=torch.where(own == NO_CLASS, NO_CLASS, own - first),
        )
        yield first, phrases, classes
        first = last

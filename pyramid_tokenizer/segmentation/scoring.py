"""The best class of every pixel, some classes at a time: memory does not grow with their number."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.text import BACKGROUND, VocabularyEmbeddings

Scorer = Callable[[slice], Tensor]
"""A range of phrases -> their scores (B, P', h, w) per cell."""


CHUNK_FLOATS = 2**24
"""Scores held at a time: 64 MB. Classes are compared chunk by chunk, so memory does not grow with their number."""


def grid_of(cells: Tensor) -> tuple[int, int, int]:
    batch, _, height, width = cells.shape
    return batch, height, width


def scorer_of(cells: Tensor, text: VocabularyEmbeddings) -> Scorer:
    """Of embeddings (B, D, h, w)."""
    embeddings = text.embeddings.to(cells.device)
    return lambda part: torch.einsum("bdhw,pd->bphw", cells, embeddings[part])


def best_classes(
    score: Scorer,
    text: VocabularyEmbeddings,
    *,
    grid: tuple[int, int, int],
    image_size: tuple[int, int] | None,
    stride: int,
) -> tuple[Tensor, Tensor]:
    """The best class of every pixel and its score, some classes at a time: memory does not grow with their number.

    Scores of a class's synonyms are maximised per cell, then enlarged bilinearly to pixels and cut to the image.

    Args:
        score: Gives the scores (B, P', h, w) of a range of phrases.
        text: The phrases.
        grid: B, h, w.
        image_size: (H, W) of the result; None for one label per cell.
        stride: Pixels per cell.

    Returns:
        Labels (B, H, W) int64, -1 for the background, and scores (B, H, W) float32.
    """
    floats_each = math.prod(grid) * (1 if image_size is None else stride**2)
    best: Tensor | None = None
    labels = torch.empty(0)
    for first, phrases, classes in _chunks(text, CHUNK_FLOATS // floats_each):
        scores = classes.class_scores(score(phrases), dim=1)  # (B, n, h, w)
        if image_size is not None:
            scores = enlarge(scores, stride)[..., : image_size[0], : image_size[1]]
        top, index = scores.max(1)
        if best is None:
            best, labels = top, index + first
        else:
            better = top > best  # the first of equals wins, as in one argmax
            best, labels = torch.where(better, top, best), torch.where(better, index + first, labels)
    assert best is not None
    return torch.where(labels == text.num_classes, BACKGROUND, labels), best.float()


def _chunks(text: VocabularyEmbeddings, size: int) -> Iterator[tuple[int, slice, VocabularyEmbeddings]]:
    """First class, range of phrases, and the vocabulary of classes with up to `size` phrases together, or of a single one.

    Phrases come class by class, the background's at the end; it joins the last classes.
    """
    owner = torch.where(text.owner == BACKGROUND, text.num_classes, text.owner)
    starts = torch.searchsorted(owner, torch.arange(text.num_classes + 1)).tolist()  # the last is the background's
    first = 0
    while first < text.num_classes:
        last = max(first + 1, bisect_right(starts, starts[first] + size) - 1)
        phrases = slice(starts[first], len(owner) if last == text.num_classes else starts[last])
        own = text.owner[phrases]
        classes = VocabularyEmbeddings(
            names=text.names[first:last],
            embeddings=text.embeddings[phrases],
            owner=torch.where(own == BACKGROUND, BACKGROUND, own - first),
        )
        yield first, phrases, classes
        first = last

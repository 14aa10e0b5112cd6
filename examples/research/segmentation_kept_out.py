"""Masks by names that were kept out of training, beside the same masks by shuffled names.

A permutation of names moves no pixel: a class that is called n gets the pixels that name n took. So one matrix of counts a
image holds the scores of every permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.research.segmentation_rows import Names

SHUFFLES = 20
SAMPLES = 1000
"""Draws of a bootstrap interval."""


def shuffled_names(names: Names, *, seed: int = 0) -> Tensor:
    """(SHUFFLES, k) int64: what name each kept-out class gets when all names of the set are dealt out anew."""
    rng = torch.Generator().manual_seed(seed)
    places = torch.searchsorted(names.named, names.kept_out)  # `named` is sorted
    return torch.stack([names.named[torch.randperm(len(names.named), generator=rng)][places] for _ in range(SHUFFLES)])


def iou_by_name(counts: Tensor) -> Tensor:
    """(..., N, N + 1) counts -> (..., N, N) float64: IoU of the pixels of class i with those that name n took.

    The diagonal is the usual IoU; elsewhere it is what class i would score if it were called n.
    """
    counts = counts.double()
    hits = counts[..., :-1]
    union = counts.sum(-1)[..., :, None] + hits.sum(-2)[..., None, :] - hits
    return (hits / union).nan_to_num(0)


def kept_out_iou(counts: Tensor, names: Names, dealt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """IoU of each kept-out class by its own name, by shuffled ones, and by every name in turn: (..., k) each.

    Args:
        counts: (..., N, N + 1), summed over images.
        names: Of the set.
        dealt: `shuffled_names`.

    Returns:
        nan for classes that do not occur.
    """
    iou = iou_by_name(counts)[..., names.kept_out, :]  # (..., k, N)
    absent = counts.sum(-1)[..., names.kept_out] == 0
    rows = torch.arange(len(names.kept_out))
    every = iou[..., names.named].mean(-1)
    found = (iou[..., rows, names.kept_out], iou[..., rows, dealt].mean(-2), every)
    own, shuffled, every = (values.masked_fill(absent, torch.nan) for values in found)
    return own, shuffled, every


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptOutScores:
    """Means over the kept-out classes that occur."""

    images: int
    classes: int
    miou: float
    interval: tuple[float, float]
    """95 %, over images."""
    shuffled: float
    """The same with names shuffled: the mean of `SHUFFLES` permutations."""
    every_name: float
    """The same by every name of the set in turn: what shuffling comes to in the long run."""
    ratio: float
    """To `shuffled`."""
    ratio_interval: tuple[float, float]


def kept_out_scores(sets: Sequence[tuple[Names, Sequence[Tensor]]], *, seed: int = 0) -> KeptOutScores:
    """The scores of one source on the images (N, N + 1) of one set or of several; a class of two sets counts twice."""
    whole, drawn = [], []
    for number, (names, images) in enumerate(sets):
        dealt = shuffled_names(names, seed=seed)
        stack = torch.stack(list(images)).double()  # (M, N, N + 1)
        times = draws(len(stack), seed=seed + number)
        whole.append(torch.stack(kept_out_iou(stack.sum(0), names, dealt)))  # (3, k)
        sums = (times @ stack.flatten(1)).unflatten(1, stack.shape[1:])  # (SAMPLES, N, N + 1)
        drawn.append(torch.stack(kept_out_iou(sums, names, dealt)))  # (3, SAMPLES, k)
    own, shuffled, every = torch.cat(whole, -1).nanmean(-1)
    own_drawn, shuffled_drawn, _ = torch.cat(drawn, -1).nanmean(-1)
    return KeptOutScores(
        images=sum(len(images) for _, images in sets),
        classes=int((~torch.cat(whole, -1)[0].isnan()).sum()),
        miou=float(own),
        interval=interval(own_drawn),
        shuffled=float(shuffled),
        every_name=float(every),
        ratio=float(own / shuffled),
        ratio_interval=interval(own_drawn / shuffled_drawn),
    )


def draws(count: int, *, seed: int) -> Tensor:
    """(SAMPLES, count) float64: how often each image is in a draw of as many with replacement."""
    rng = torch.Generator().manual_seed(seed)
    times = torch.zeros(SAMPLES, count, dtype=torch.float64)
    chosen = torch.randint(count, (SAMPLES, count), generator=rng)
    return times.scatter_add_(1, chosen, torch.ones_like(times))


def interval(values: Tensor) -> tuple[float, float]:
    """The middle 95 %; draws without any kept-out class say nothing."""
    low, high = torch.nanquantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high

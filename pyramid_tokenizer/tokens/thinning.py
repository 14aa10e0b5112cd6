"""Tokens by content: which splits of a full pyramid are worth their bits, and the pyramid that keeps only those.

A cell of a level is *split* where its cells of the next finer level have tokens: all of them or none. A split saves squared
error and costs bits: the tokens of its cells, and one bit for each of these that could be split in turn. Its *price* is the
largest squared error per bit at which it still belongs to the best pyramid. A cell's price is never above its parent's, so
that the splits above any price form a pyramid, and one of a higher price is part of one of a lower price.

Source: P. Chou, T. Lookabaugh and R. Gray, "Optimal pruning with applications to tree-structured source coding and modeling"
(1989).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.errors import TokenError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.splits import ABSENT, Presence, children_of

HALF_PRICE = 0.076
"""The price at quality 0.5, in squared error of pixels in [0, 1] per bit."""
PRICE_SPREAD = 0.8
"""How fast the price falls with the quality."""

_BISECTIONS = 32
"""Steps that find a price to 2^-32 of the largest."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gains:
    """What the splits of full pyramids save: all that thinning needs beside the tokens."""

    error: Tensor
    """(B,) float32: squared error of level 0's linear reconstruction, summed over pixels in [0, 1] and channels."""
    saved: tuple[Tensor, ...]
    """(B, h_l, w_l) float32 for every level but the finest: by how much the squared error of the linear reconstruction falls
    where a cell of level l is split; negative where it rises."""

    def unbind(self) -> list[Gains]:
        """One for each image, in order."""
        each = zip(self.error.split(1), *(level.split(1) for level in self.saved), strict=True)
        return [Gains(error=error, saved=tuple(saved)) for error, *saved in each]


def price_of(quality: float) -> float:
    """The price per bit that a quality in [0, 1] stands for: infinite at 0, minus infinite at 1, where all is kept.

    Chosen so that images keep about that share of their finer tokens on average: of the base levels of the bundled model, on 67
    photos of 256 px, 13, 27, 50, 78 and 94 % at qualities of 0.1, 0.25, 0.5, 0.75 and 0.9 (`benchmarks/by_content.py`).

    Example:
        >>> price_of(0.5) == HALF_PRICE, price_of(1.0), price_of(0.0)
        (True, -inf, inf)
    """
    if quality in (0, 1):
        return math.inf if quality == 0 else -math.inf
    return HALF_PRICE * ((1 - quality) / quality) ** PRICE_SPREAD


class SplitOrder:
    """All splits of a batch of full pyramids, best first, and what the first of them make of an image.

    Args:
        gains: Of the pyramids.
        codebook_sizes: K_l per level.
        ratios: Cells of a level per cell of the next coarser one, along each side; one for every level but the coarsest.
        image_tokens: How many each image has; they are never left out.

    Example:
        >>> gains = Gains(error=torch.tensor([9.0]), saved=(torch.tensor([[[1.0, 4.0]]]),))
        >>> order = SplitOrder(gains, codebook_sizes=(4, 8), ratios=(2,))
        >>> order.num_tokens.tolist(), order.error.tolist()
        ([[2, 6, 10]], [[9.0, 5.0, 4.0]])
        >>> order.masks(order.within_tokens(6))[1].tolist()
        [[[False, False, True, True], [False, False, True, True]]]
    """

    prices: Tensor
    """(B, S) float32, never rising: the price of each split."""
    num_tokens: Tensor
    """(B, S + 1) int64: tokens of the image with the first n splits."""
    error: Tensor
    """(B, S + 1) float32: squared error of the linear reconstruction with the first n splits, as `Gains.error`."""

    def __init__(self, gains: Gains, *, codebook_sizes: Sequence[int], ratios: Sequence[int], image_tokens: int = 0):
        self.ratios, self._shapes = tuple(ratios), [level.shape for level in gains.saved]
        prices = _prices(gains.saved, ratios, _split_bits(ratios, codebook_sizes))
        flat = torch.cat([level.flatten(1) for level in prices], 1)
        # stable, and coarse levels come first: no cell comes before its parent
        self.prices, self._order = flat.sort(dim=1, descending=True, stable=True)
        own = [
            torch.full_like(level[0], ratio**2, dtype=torch.int64) for level, ratio in zip(prices, ratios, strict=True)
        ]
        added = torch.cat([level.flatten() for level in own])[self._order]  # (B, S)
        saved = torch.cat([level.flatten(1) for level in gains.saved], 1).gather(1, self._order)
        self.num_tokens = F.pad(added.cumsum(1), (1, 0)) + gains.saved[0][0].numel() + image_tokens
        self.error = gains.error[:, None] - F.pad(saved.cumsum(1), (1, 0))

    def within_tokens(self, max_tokens: int) -> Tensor:
        """How many splits leave each image at most so many tokens: (B,) int64. Level 0 alone is never thinned."""
        return (self.num_tokens[:, 1:] <= max_tokens).sum(1)

    def above_price(self, price: float | Tensor) -> Tensor:
        """How many splits of each image have more than a price, a number or (B, 1): (B,) int64."""
        return (self.prices > price).sum(1)

    def within_error(self, errors: Tensor) -> Tensor:
        """The fewest splits that leave each image at most its squared error, (B,) float: (B,) int64; all where none do."""
        reached = self.error <= errors[:, None]
        return torch.where(reached.any(1), reached.int().argmax(1), reached.shape[1] - 1)

    def masks(self, count: Tensor) -> Presence:
        """The masks (B, h_l, w_l) bool of the pyramids with the first splits of each image alone; None for level 0.

        Args:
            count: How many of each image, (B,) int64 from 0 to S.
        """
        first = torch.arange(self._order.shape[1], device=count.device) < count[:, None]
        kept = torch.zeros_like(first).scatter(1, self._order, first).split([s[1:].numel() for s in self._shapes], 1)
        splits = [flat.view(shape) for flat, shape in zip(kept, self._shapes, strict=True)]
        return (None, *(children_of(split, ratio) for split, ratio in zip(splits, self.ratios, strict=True)))


def thinned(tokens: TokenPyramid, masks: Presence) -> TokenPyramid:
    """Full pyramids with the tokens of masks alone.

    Args:
        tokens: Full pyramids.
        masks: Of every level, as `SplitOrder.masks` gives them.
    """
    present = tuple(None if mask is None or bool(mask.all()) else mask.to(tokens.device) for mask in masks)
    ids = [
        own if mask is None else torch.where(mask, own, ABSENT) for own, mask in zip(tokens.ids, present, strict=True)
    ]
    return tokens.with_ids(ids, present)


def split_order(tokens: TokenPyramid, gains: Gains) -> SplitOrder:
    """The order of the splits of full pyramids.

    Raises:
        TokenError: Tokens and gains have different grids, there is one level alone, or one is sparse.
    """
    _check_gains(tokens, gains)
    ratios = [fine[0] // coarse[0] for coarse, fine in itertools.pairwise(tokens.grids)]
    image_tokens = len(tokens.image_codebook_sizes)
    return SplitOrder(gains, codebook_sizes=tokens.codebook_sizes, ratios=ratios, image_tokens=image_tokens)


def _split_bits(ratios: Sequence[int], codebook_sizes: Sequence[int]) -> list[float]:
    """What a split of each level but the finest costs: its tokens, and one bit for each of them that can be split."""
    last = len(ratios) - 1
    return [ratio**2 * (math.log2(codebook_sizes[level + 1]) + (level < last)) for level, ratio in enumerate(ratios)]


def _prices(saved: Sequence[Tensor], ratios: Sequence[int], bits: Sequence[float]) -> list[Tensor]:
    """The price of every split, by bisection: what a split is worth falls as the price rises."""
    # of each image alone: what it keeps must not depend on the others of its batch
    steepest = [level.abs().flatten(1).amax(1) / own for level, own in zip(saved, bits, strict=True)]
    bound = torch.stack(steepest).amax(0)[:, None, None] + 1e-6
    prices: list[Tensor] = []
    for level, own in enumerate(saved):
        low, high = (-bound).expand_as(own), bound.expand_as(own)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            pays = _worth(saved, ratios, bits, level, middle) > 0
            low, high = torch.where(pays, middle, low), torch.where(pays, high, middle)
        # the lower end pays, so that a split that saves anything at all has a price above 0
        prices.append(low if not prices else torch.minimum(low, children_of(prices[-1], ratios[level - 1])))
    return prices


def _worth(saved: Sequence[Tensor], ratios: Sequence[int], bits: Sequence[float], level: int, price: Tensor) -> Tensor:
    """What splitting each cell saves less what it costs at its price, with the splits below it that pay: (B, h_l, w_l)."""
    worth = saved[level] - price * bits[level]
    if level + 1 == len(saved):
        return worth
    ratio = ratios[level]
    below = _worth(saved, ratios, bits, level + 1, children_of(price, ratio)).clamp(min=0)
    return worth + F.avg_pool2d(below[:, None], ratio)[:, 0] * ratio**2


def _check_gains(tokens: TokenPyramid, gains: Gains) -> None:
    if tokens.is_sparse:
        raise TokenError(
            f"expected full pyramids, got {tokens}: thin the tokens that encode gives without a budget, or encode the image "
            "again"
        )
    found = [tuple(level.shape) for level in gains.saved]
    expected = [(tokens.batch_size, *grid) for grid in tokens.grids[:-1]]
    if not expected:
        raise TokenError(f"expected two levels or more to thin, got {tokens}: encode with more levels")
    if found != expected or tuple(gains.error.shape) != (tokens.batch_size,):
        raise TokenError(f"expected gains of grids {expected}, got {found}: use those of the same tokens")

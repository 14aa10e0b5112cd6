"""Tokens by content: full pyramids -> those that keep to a budget of tokens, of quality, or of error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_kind, check_whole
from pyramid_tokenizer.errors import ConfigError, TokenRangeError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.thinning import Gains, SplitOrder, price_of, split_order, thinned

DECODES = 2
"""Images are decoded this often to reach a PSNR."""
DECODER_SHARE = 0.8
"""Squared error of a decoded image over that of its linear reconstruction, before the first of them is decoded."""
PSNR_RANGE = (10.0, 60.0)
"""Targets in dB that can be meant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How many tokens an image gets: by one of three limits, or by none of them for a full pyramid.

    Raises:
        ConfigError: Several at once, or a number that none can mean.

    Example:
        >>> Budget(max_tokens=400).is_open, Budget().is_open
        (False, True)
    """

    max_tokens: int | None = None
    """Tokens of each image, at most: the best that many."""
    target_psnr: float | None = None
    """dB that each decoded image should have: the fewest tokens that give it."""
    quality: float | None = None
    """From 0, level 0 alone, to 1, everything: one price per bit for all images, so that complex ones get more tokens."""

    def __post_init__(self) -> None:
        given = {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
        if len(given) > 1:
            raise ConfigError(f"expected one of max_tokens, target_psnr and quality, got {given}: leave out the others")
        if self.max_tokens is not None:
            check_whole(max_tokens=self.max_tokens)
        for name, (low, high) in (("target_psnr", PSNR_RANGE), ("quality", (0.0, 1.0))):
            value = given.get(name)
            if value is None:
                continue
            check_kind(value, Real, name=name, fix=f"give a number from {low:g} to {high:g}")
            if not low <= value <= high:
                raise ConfigError(f"expected {name} from {low:g} to {high:g}, got {value!r}: give another number")

    @property
    def is_open(self) -> bool:
        """Whether it sets no limit."""
        return self == Budget()


def keep_to_budget(
    tokens: TokenPyramid,
    gains: Gains,
    budget: Budget,
    *,
    squared_error: Callable[[TokenPyramid], Tensor] | None = None,
) -> TokenPyramid:
    """The tokens that are worth their bits within a budget.

    Args:
        tokens: Full pyramids.
        gains: Of the same images.
        budget: One that sets a limit.
        squared_error: What decoded images differ from their originals, summed over values in [0, 1]: pyramids -> (B,) float.
            Without it, `target_psnr` is that of the linear reconstruction.

    Raises:
        TokenRangeError: `max_tokens` is below the cells of level 0.
        TokenError: The gains are of other tokens.
    """
    order = split_order(tokens, gains)
    least, most = int(order.num_tokens[0, 0]), int(order.num_tokens[0, -1])
    if budget.max_tokens is not None and budget.max_tokens < least:
        raise TokenRangeError(
            f"expected max_tokens of {least} or more, the cells of level 0 of an image of {tokens.image_size} px, got "
            f"{budget.max_tokens}: allow more tokens, or make the image smaller by size="
        )
    if budget.max_tokens is not None:
        return thinned(tokens, order.masks(order.within_tokens(budget.max_tokens)))
    if budget.quality is not None:
        return thinned(tokens, order.masks(order.above_price(price_of(budget.quality))))
    assert budget.target_psnr is not None
    values = 3 * tokens.image_size[0] * tokens.image_size[1]
    wanted = torch.full_like(order.error[:, 0], values * 10 ** (-budget.target_psnr / 10))
    decoded = None if squared_error is None else lambda count: squared_error(thinned(tokens, order.masks(count)))
    count, found = _search(order, wanted, decoded)
    for image in (found > wanted * 10**0.005).nonzero().flatten().tolist():  # .05 dB is no miss
        reached = -10 * math.log10(float(found[image]) / values)
        warnings.warn(
            f"image {image} of the batch has {reached:.2f} dB with all its {most} tokens, not {budget.target_psnr:g} dB: it "
            "keeps them all; a finer level, a larger image or a lower target would help",
            stacklevel=4,
        )
    return thinned(tokens, order.masks(count))


def _search(
    order: SplitOrder, wanted: Tensor, squared_error: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor]:
    """How many splits each image needs, (B,); and the squared error left where all splits are too few, (B,), else 0.

    The decoder's error is a share of the linear reconstruction's that changes slowly with the tokens: two decodes near the
    target are enough to know it.
    """
    last = order.error.shape[1] - 1
    share = torch.full_like(wanted, DECODER_SHARE if squared_error is not None else 1.0)
    missed = torch.zeros_like(wanted)
    count = order.within_error(wanted / share)
    for _ in range(DECODES if squared_error is not None else 0):
        assert squared_error is not None
        found = squared_error(count)
        share = found / order.error.gather(1, count[:, None])[:, 0].clamp(min=1e-12)
        missed = torch.where((count == last) & (found > wanted), found, missed)
        count = torch.where(missed > 0, last, order.within_error(wanted / share))
    if squared_error is None:
        left = order.error[:, -1]
        missed = torch.where(left > wanted, left, missed)
    return count, missed

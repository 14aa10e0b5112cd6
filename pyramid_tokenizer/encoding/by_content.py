"""Tokens by content: full pyramids -> those that keep to a budget of tokens, of quality, or of error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyramid_tokenizer.config.budget import Budget
from pyramid_tokenizer.errors import TokenRangeError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.thinning import Gains, SplitOrder, price_of, split_order, thinned

DECODES = 2
"""Images are decoded this often to reach a PSNR."""
DECODER_SHARE = 0.8
"""Squared error of a decoded image over that of its linear reconstruction, before the first of them is decoded."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left of full pyramids within a budget."""

    tokens: TokenPyramid
    """The tokens that are worth their bits; levels may be sparse."""
    missed: Mapping[int, float] = field(default_factory=dict)
    """With a `target_psnr`: number in the batch -> dB, of the images that do not reach it with all their tokens."""


def keep_to_budget(
    tokens: TokenPyramid,
    gains: Gains,
    budget: Budget,
    *,
    squared_error: Callable[[TokenPyramid], Tensor] | None = None,
) -> Kept:
    """The tokens that are worth their bits within a budget.

    Args:
        tokens: Full pyramids.
        gains: Of the same images.
        budget: One that sets a limit.
        squared_error: What decoded images differ from their originals, summed over values in [0, 1]: pyramids -> (B,) float.
            Without it, `target_psnr` is that of the linear reconstruction.

    Raises:
        TokenRangeError: `max_tokens` is below the image tokens and the cells of level 0.
        TokenError: The gains are of other tokens.
    """
    check_smallest(budget, tokens.grids[0], tokens.image_size, image_tokens=len(tokens.image_codebook_sizes))
    order = split_order(tokens, gains)
    if budget.max_tokens is not None:
        return Kept(thinned(tokens, order.masks(order.within_tokens(budget.max_tokens))))
    if budget.quality is not None:
        return Kept(thinned(tokens, order.masks(order.above_price(price_of(budget.quality)))))
    assert budget.target_psnr is not None
    values = 3 * tokens.image_size[0] * tokens.image_size[1]
    wanted = torch.full_like(order.error[:, 0], values * 10 ** (-budget.target_psnr / 10))
    decoded = None if squared_error is None else lambda count: squared_error(thinned(tokens, order.masks(count)))
    count, found = _search(order, wanted, decoded)
    missed = (found > wanted * 10**0.005).nonzero().flatten().tolist()  # .05 dB is no miss
    reached = {image: -10 * math.log10(float(found[image]) / values) for image in missed}
    return Kept(thinned(tokens, order.masks(count)), reached)


def check_smallest(
    budget: Budget, root: tuple[int, int], image_size: tuple[int, int], *, image_tokens: int = 0
) -> None:
    """Raises TokenRangeError where `max_tokens` is below image tokens and cells of level 0, which no pyramid is without.

    Args:
        budget: Any.
        root: (h_0, w_0), the grid of level 0.
        image_size: (H, W) of the image in pixels.
        image_tokens: How many the image has.
    """
    least = root[0] * root[1] + image_tokens
    if budget.max_tokens is not None and budget.max_tokens < least:
        raise TokenRangeError(
            f"expected max_tokens of {least} or more, image tokens and cells of level 0 of an image of {image_size} px, got "
            f"{budget.max_tokens}: allow more tokens, or make the image smaller by size="
        )


def warn_of_misses(kept: Kept, budget: Budget, *, stacklevel: int) -> None:
    """Warns of every image that cannot reach the budget's PSNR.

    Args:
        kept: What `keep_to_budget` gave.
        budget: The budget.
        stacklevel: As for `warnings.warn`, counted from the caller.
    """
    for image, reached in kept.missed.items():
        most = int(kept.tokens.token_counts[image])
        warnings.warn(
            f"image {image} of the batch has {reached:.2f} dB with all its {most} tokens, not {budget.target_psnr:g} dB: it "
            "keeps them all; a finer level, a larger image or a lower target would help",
            stacklevel=stacklevel + 1,
        )


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

"""Random sparse pyramids for training: a decoder meets cells that have no token as it meets prefixes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyramid_tokenizer.quantizer.gains import measure_gains
from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer
from pyramid_tokenizer.tokens.splits import Presence
from pyramid_tokenizer.tokens.thinning import Gains, SplitOrder


@torch.no_grad()
def draw_masks(quantizer: PyramidQuantizer, ids: Sequence[Tensor], images: Tensor) -> Presence:
    """Masks of full pyramids that keep one share of their splits, drawn evenly between none and all.

    Half of the calls keep those that save the most error per bit, as `encode` with a limit does; the other half keeps random
    ones, the same in all images. So what an image keeps does not depend on how a batch is split over processes and passes.

    Args:
        quantizer: Which made the ids.
        ids: (B, h_l, w_l) int64 of two levels or more, coarse to fine.
        images: (B, 3, H, W) in [0, 1], with sides in multiples of the coarsest stride.

    Returns:
        (B, h_l, w_l) bool for every level but the coarsest, which is None.
    """
    if float(torch.rand(())) < 0.5:
        gains = measure_gains(quantizer, ids, images)
    else:
        random = tuple(torch.rand(level.shape[1:]).to(level.device).expand(level.shape) for level in ids[:-1])
        gains = Gains(error=images.new_zeros(len(images)), saved=random)
    ratios = [quantizer.ratio(level) for level in range(1, len(ids))]
    order = SplitOrder(gains, codebook_sizes=quantizer.codebook_sizes, ratios=ratios)
    count = int(torch.randint(order.prices.shape[1] + 1, ()))
    return order.masks(torch.full((len(images),), count, device=images.device))

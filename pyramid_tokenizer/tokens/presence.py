"""What functions of maps do about absent cells: the masks of sparse levels, and values where a mask allows them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyramid_tokenizer.tokens.splits import Presence, children_of


def mask_of(present: Presence, level: int) -> Tensor | None:
    """The mask of a level, (B, h_l, w_l) bool; None where it is full. Levels beyond the end of `present` are full.

    Example:
        >>> mask_of((), 2) is None
        True
    """
    return present[level] if level < len(present) else None


def keep_present(values: Tensor, mask: Tensor | None, otherwise: Tensor | float = 0.0) -> Tensor:
    """Maps or pixels where their cells are present, and `otherwise` where they are absent.

    Args:
        values: (B, C, r h, r w), r places a side for each cell.
        mask: (B, h, w) bool; None gives `values` back.
        otherwise: A number, or a tensor of a shape that fits `values`.

    Example:
        >>> keep_present(torch.ones(1, 1, 1, 4), torch.tensor([[[True, False, True, True]]])).tolist()
        [[[[1.0, 0.0, 1.0, 1.0]]]]
    """
    if mask is None:
        return values
    places = values.shape[-1] // mask.shape[-1]
    spread = mask if places == 1 else children_of(mask, places)
    return torch.where(spread[:, None], values, otherwise)

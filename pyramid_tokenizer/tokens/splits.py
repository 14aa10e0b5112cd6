"""Which cells of a sparse level are present, told by the splits of the next coarser level's cells.

A present cell is split, and then all of its r · r children on the next finer level are present, or it is not, and then all of
them are absent; r is the ratio of the two grids. Nothing is present below an absent cell. So the cells form a tree, a quadtree
where r is 2, and one bit for each present cell of a level, its *split bit*, tells which cells of the next level are present.

B images, h and w cells of the coarser grid, H = h · r and W = w · r of the finer one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyramid_tokenizer.errors import TokenRangeError
from pyramid_tokenizer.tokens.split_bits import ABSENT, children_of, splits_of

Presence = tuple[Tensor | None, ...]
"""Per level (B, h_l, w_l) bool, True where the cell has a token; None where all cells have one."""


def count_present(present: Presence, shapes: Sequence[torch.Size], device: torch.device) -> Tensor:
    """How many tokens each image has on each level.

    Args:
        present: Presence per level.
        shapes: (B, h_l, w_l) per level.
        device: Where the masks lie.

    Returns:
        (L, B) int64 on that device, which nothing has waited for.
    """
    counts = [
        torch.full(shape[:1], shape[1] * shape[2], device=device) if mask is None else mask.flatten(1).sum(1)
        for mask, shape in zip(present, shapes, strict=True)
    ]
    return torch.stack(counts)


def count_split_bits(counts: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
    """How many split bits each image needs, where a level that is full in that image needs none.

    Args:
        counts: (L, B) int64, tokens of each level and image.
        grids: (h_l, w_l) per level.

    Returns:
        (B,) int64.
    """
    cells = torch.tensor([h * w for h, w in grids], device=counts.device)
    return (counts[:-1] * (counts[1:] < cells[1:, None])).sum(0)


def check_tree(present: Presence, grids: Sequence[tuple[int, int]]) -> None:
    """Refuses presence that is no tree of splits.

    Args:
        present: Presence per level; level 0 must be full.
        grids: (h_l, w_l) per level, each a whole multiple of the coarser one.

    Raises:
        TokenRangeError: Of the children of a cell some are present and some are not, or a child of an absent cell is
            present. The message names level, image and cell.
    """
    for level in range(1, len(present)):
        coarse, fine = present[level - 1], present[level]
        ratio = grids[level][0] // grids[level - 1][0]
        if fine is not None:
            mixed = (fine != children_of(splits_of(fine, ratio), ratio)).nonzero()  # (n, 3)
            if len(mixed):
                image, row, column = mixed[0].tolist()
                cell = f"cell ({row // ratio}, {column // ratio}) of level {level - 1} in image {image}"
                raise TokenRangeError(
                    f"expected the {ratio}x{ratio} cells of level {level} below {cell} to be all present or all absent, got "
                    f"some of each: write {ABSENT} for all of them or for none"
                )
        if coarse is not None:
            orphan = ~coarse if fine is None else ~coarse & splits_of(fine, ratio)
            places = orphan.nonzero()
            if len(places):
                image, row, column = places[0].tolist()
                raise TokenRangeError(
                    f"expected only absent cells of level {level} below the absent cell ({row}, {column}) of level "
                    f"{level - 1} in image {image}, got ids: write {ABSENT} for them, or give their parent an id"
                )

"""How much of its codebook each level uses during training, so that a collapse shows in the log and not at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

DRAWS_PER_CODE = 10
"""Length of the window in which a code must be seen to count as used: as long as even use takes to draw every code this
often."""


class CodebookUsage:
    """Remembers the step at which every code was last seen.

    Args:
        codebook_sizes: Number of entries K of each level's codebook.

    Example:
        >>> usage = CodebookUsage([4])
        >>> for step in range(20):
        ...     usage.add(step, [torch.tensor([[0, 1, 2, 2]])])
        >>> usage.shares(step)
        {'usage@0': 0.75}
    """

    def __init__(self, codebook_sizes: Sequence[int]):
        self.last_seen = [torch.full((size,), -1) for size in codebook_sizes]
        self.ids_per_step = [0] * len(codebook_sizes)

    def add(self, step: int, ids: Sequence[Tensor]) -> None:
        """Adds the ids of a batch of that step: one int64 tensor of any shape for each level."""
        for index, (seen, level) in enumerate(zip(self.last_seen, ids, strict=True)):
            seen[level.detach().flatten().cpu()] = step
            self.ids_per_step[index] = level.numel()

    def shares(self, step: int) -> dict[str, float]:
        """Share of the codes in use, as "usage@0" for level 0; levels that were not watched for a whole window are left out."""
        shares = {}
        for index, (seen, count) in enumerate(zip(self.last_seen, self.ids_per_step, strict=True)):
            window = math.ceil(DRAWS_PER_CODE * len(seen) / max(count, 1))
            if step + 1 >= window:
                shares[f"usage@{index}"] = float((seen > step - window).float().mean())
        return shares

    def state(self) -> dict[str, Tensor]:
        """The steps at which codes were last seen, for a checkpoint."""
        return {str(index): seen.clone() for index, seen in enumerate(self.last_seen)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` returned."""
        for index, seen in enumerate(self.last_seen):
            seen.copy_(state[str(index)])

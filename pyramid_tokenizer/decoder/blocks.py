"""Small convolutional blocks of the trunk and the pixel decoder. No normalisation over space: everything tiles exactly."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + conv(gelu(conv(x))), 3 x 3 both; starts as the identity.

    Args:
        channels: Of input and output.

    Example:
        >>> import torch
        >>> x = torch.rand(1, 8, 4, 4)
        >>> bool((ResidualBlock(8)(x) == x).all())
        True
    """

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same."""
        return x + self.second(F.gelu(self.first(x)))

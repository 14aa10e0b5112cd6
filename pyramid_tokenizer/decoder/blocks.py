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

    halo = 2
    """Cells around a cell, in every direction, that its result depends on."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        zero_(self.second)

    def reset_parameters(self) -> None:
        """Draws the first convolution anew and makes the block the identity again."""
        self.first.reset_parameters()
        zero_(self.second)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same."""
        return x + self.second(F.gelu(self.first(x)))


def zero_(layer: nn.Conv2d) -> None:
    """Sets weight and bias to zero, in place."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def reset_children(module: nn.Module) -> None:
    """Draws the parameters of all convolutions and residual blocks below a module anew, in place."""
    for child in module.children():
        if isinstance(child, (nn.Conv2d, ResidualBlock)):
            child.reset_parameters()
        else:
            reset_children(child)

"""Fused maps to an image: the pixel decoder adds a correction to the linear reconstruction of the codes."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.decoder.blocks import ResidualBlock, reset_children, zero_
from pyramid_tokenizer.errors import ConfigError


class PixelDecoder(nn.Module):
    """The linear reconstruction plus a correction, whose last layer starts at zero.

    An untrained decoder therefore gives exactly the linear reconstruction. Each stage doubles the resolution of the fused map,
    reads the linear reconstruction at that resolution (space to depth), and refines; the last step goes to pixels by a pixel
    shuffle.

    Args:
        in_channels: Channels of the finest fused map.
        stride: s, input pixels per cell of that map.
        widths: Channels per stage; 2 ** len(widths) must divide the stride.
        depth: Residual blocks per stage.

    Raises:
        ConfigError: More doublings than the stride has.

    Example:
        >>> import torch
        >>> decoder = PixelDecoder(in_channels=8, stride=8, widths=(8,), depth=1)
        >>> linear_reconstruction = torch.rand(1, 3, 32, 32)
        >>> bool((decoder(torch.rand(1, 8, 4, 4), linear_reconstruction) == linear_reconstruction).all())
        True
    """

    def __init__(self, *, in_channels: int, stride: int, widths: tuple[int, ...], depth: int):
        super().__init__()
        if stride % 2 ** len(widths):
            doublings = (stride & -stride).bit_length() - 1
            raise ConfigError(
                f"expected at most {doublings} pixel stages for stride {stride}, got {len(widths)}: "
                "drop some of decoder.pixel_widths"
            )
        self.patches = [stride // 2 ** (i + 1) for i in range(len(widths))] or [stride]
        narrow = [in_channels, *widths]
        self.grow = nn.ModuleList(nn.Conv2d(a, 4 * b, 1) for a, b in itertools.pairwise(narrow))
        self.see = nn.ModuleList(nn.Conv2d(3 * p**2, w, 1) for p, w in zip(self.patches, widths, strict=False))
        self.refine = nn.ModuleList(nn.Sequential(*(ResidualBlock(w) for _ in range(depth))) for w in widths)
        self.to_pixels = nn.Conv2d(narrow[-1], 3 * self.patches[-1] ** 2, 3, padding=1)
        zero_(self.to_pixels)

    @property
    def is_trained(self) -> bool:
        """Whether the correction is anything but zero."""
        return any(bool(parameter.any()) for parameter in self.to_pixels.parameters())

    @property
    def halo_px(self) -> int:
        """Pixels around a pixel, in every direction, that its value can depend on."""
        blocks = sum(
            len(list(refine.children())) * ResidualBlock.halo * patch
            for refine, patch in zip(self.refine, self.patches, strict=False)
        )
        return blocks + 2 * self.patches[-1]  # the last layer, from anywhere in its cell

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws all parameters anew, with a correction of zero."""
        reset_children(self)
        zero_(self.to_pixels)

    def forward(self, fused: Tensor, linear_reconstruction: Tensor) -> Tensor:
        """The decoded image, not yet clamped to [0, 1].

        Args:
            fused: (B, in_channels, h, w), the trunk's finest map.
            linear_reconstruction: (B, 3, s h, s w), from the quantizer.

        Returns:
            (B, 3, s h, s w).
        """
        x = fused
        for grow, see, refine, patch in zip(self.grow, self.see, self.refine, self.patches, strict=False):
            x = F.pixel_shuffle(grow(x), 2) + see(F.pixel_unshuffle(linear_reconstruction, patch))
            x = refine(x)
        return linear_reconstruction + F.pixel_shuffle(self.to_pixels(F.gelu(x)), self.patches[-1])

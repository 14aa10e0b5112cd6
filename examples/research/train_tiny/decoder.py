"""A helper decoder that is thrown away later: it keeps pixels in the backbone's maps while the backbone learns names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CAPACITY_BITS = (12.0, 12.0, 12.0)  # of the codebooks in train_tokenizer.py
CODE_CHANNELS = (32, 32, 32)


class CapacityPyramid(nn.Module):
    """Backbone maps -> noisy codes -> an image at 1/4, 1/2 and full resolution, each from the last.

    The bottleneck has a *limited capacity*: unit Gaussian noise is added to every cell's code, and the information that
    survives it, sum 1/2 log2(1 + variance), is held at the bits that the level's codebook will have. So the backbone learns
    features that a codebook of that size can carry.
    """

    def __init__(self, channels: list[int]):
        super().__init__()
        c4, c8, c16, c32 = channels
        inputs = (c32 + 4 * c16, c16 + 4 * c8 + 192, c8 + 4 * c4 + 192)
        self.down = nn.ModuleList(nn.Conv2d(i, d, 1) for i, d in zip(inputs, CODE_CHANNELS, strict=True))
        self.pixel_readout = nn.ModuleList(nn.Conv2d(d, 192, 1) for d in CODE_CHANNELS)
        self.refine = nn.Sequential(
            nn.Conv2d(sum(CODE_CHANNELS), 96, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(96, 96, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(96, 192, 3, padding=1),
        )
        nn.init.zeros_(self.refine[-1].weight)
        nn.init.zeros_(self.refine[-1].bias)
        # A natural image's mean: the first level starts from grey, not black.
        nn.init.constant_(self.pixel_readout[0].bias, 0.45)
        for pixel_readout in self.pixel_readout:
            nn.init.normal_(pixel_readout.weight, std=0.01)  # the codes' unit noise must not drown the first images

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Maps fine -> coarse (strides 4 to 32) -> images coarse -> fine and the refined one, codes, bits over capacity."""
        f4, f8, f16, f32 = maps
        images_by_level, codes, penalty = [], [], f4.new_zeros(())
        image = None
        for level, (own, finer) in enumerate(((f32, f16), (f16, f8), (f8, f4))):
            parts = [own, F.pixel_unshuffle(finer, 2)]
            if image is not None:
                image = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
                parts.append(F.pixel_unshuffle(image.detach(), 8))
            code = self.down[level](torch.cat(parts, 1))
            capacity = 0.5 * torch.log2(1 + code.float().var(dim=(0, 2, 3))).sum()
            penalty = penalty + F.relu(capacity - CAPACITY_BITS[level])
            if self.training:
                code = code + torch.randn_like(code)
            pixels_of = F.pixel_shuffle(self.pixel_readout[level](code), 8)
            image = pixels_of if image is None else image + pixels_of
            images_by_level.append(image)
            codes.append(code)
        fine = [F.interpolate(code, scale_factor=2 ** (2 - level), mode="nearest") for level, code in enumerate(codes)]
        refined = image + F.pixel_shuffle(self.refine(torch.cat(fine, 1)), 8)
        return [*images_by_level, refined], codes, penalty


def decoding_loss(images_by_level: list[Tensor], images: Tensor) -> Tensor:
    """Mean squared error of every image at its own resolution, in units of a natural image's variance (0.07)."""
    weights = (0.15, 0.25, 0.3, 1.0)
    total = images.new_zeros(())
    for weight, image in zip(weights, images_by_level, strict=True):
        factor = images.shape[-1] // image.shape[-1]
        target = F.avg_pool2d(images, factor) if factor > 1 else images
        total = total + weight * F.mse_loss(image.float(), target) / 0.07
    return total

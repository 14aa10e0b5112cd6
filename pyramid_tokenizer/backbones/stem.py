"""The stem: a backbone's first convolution, read before any normalisation.

Normalisation hides brightness and contrast, so that maps behind it have lost part of the image. The first convolution is a
linear map of the pixels of each patch: the patch embedding of a ViT before positions and `ln_pre`, the first convolution of a
ConvNeXt, ResNet, FastViT or ViTamin before its norm. `benchmarks/recipe.py` measures it against the last block, and
`benchmarks/random_backbones.py` on full-size networks with random weights; docs/backbones.md has the figures.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

from pyramid_tokenizer.errors import BackboneError


def find_stem(visual: nn.Module) -> str:
    """The name, within `visual`, of the convolution that reads the pixels.

    Where several convolutions read the pixels side by side (FastViT while it is not fused), it is the one with the largest
    kernel, since a 1x1 convolution with a stride passes over most pixels.

    Args:
        visual: An image network.

    Raises:
        BackboneError: No convolution reads three channels.

    Example:
        >>> find_stem(nn.Sequential(nn.Identity(), nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)))
        '1'
    """
    found = [(name, part) for name, part in visual.named_modules() if _reads_pixels(part)]
    if not found:
        raise BackboneError(
            f"expected a backbone whose first layer is a convolution of RGB images, got {type(visual).__name__} without "
            "one: use another model"
        )
    return max(found, key=lambda pair: cast(nn.Conv2d, pair[1]).kernel_size[0])[0]


class _Kept(threading.local):
    """Where the outputs of stems go in this thread; torch's compiler can follow it, unlike a ContextVar."""

    outputs: list[Tensor] | None = None


_KEPT = _Kept()


def watch_stem(visual: nn.Module, name: str) -> None:
    """Lets `keep_stem` see what the convolution named `name` puts out; once per network, copies included."""
    visual.get_submodule(name).register_forward_hook(_keep)


@contextmanager
def keep_stem() -> Iterator[list[Tensor]]:
    """A list that gets what watched stems put out in this thread while the context is open.

    The stem is part of every pass through the backbone: keeping it costs nothing, where computing it again costs as much as the
    first layer.

    Example:
        >>> import torch
        >>> visual = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
        >>> watch_stem(visual, find_stem(visual))
        >>> with keep_stem() as kept:
        ...     _ = visual(torch.rand(1, 3, 8, 8))
        >>> _ = visual(torch.rand(1, 3, 8, 8))
        >>> [tuple(output.shape) for output in kept]
        [(1, 8, 2, 2)]
    """
    kept: list[Tensor] = []
    before, _KEPT.outputs = _KEPT.outputs, kept
    try:
        yield kept
    finally:
        _KEPT.outputs = before


def _keep(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
    if _KEPT.outputs is not None:
        _KEPT.outputs.append(output)


def _reads_pixels(part: nn.Module) -> bool:
    return isinstance(part, nn.Conv2d) and part.in_channels == 3

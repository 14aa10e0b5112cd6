"""The stem: the first convolution of every family, before any normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.backbones.stem import find_stem
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import BackboneError
from tests.backbones.conftest import MODEL_CONFIGS


def first_output(visual: nn.Module, run: Callable[[], Any]) -> torch.Tensor:
    """What the first convolution puts out while `run` runs the whole backbone."""
    found: list[torch.Tensor] = []
    hooks = [
        part.register_forward_hook(lambda _, __, output: found.append(output.detach().clone()))
        for part in visual.modules()
        if isinstance(part, nn.Conv2d)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return found[0]


@pytest.mark.parametrize("family", sorted(MODEL_CONFIGS))
def test_the_stem_is_the_finest_map_and_what_the_first_convolution_of_the_backbone_puts_out(
    load: Any, family: str
) -> None:
    with_stem, without = load(family, stem=True), load(family)
    side = 2 * with_stem.multiple_px
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = first_output(without.model.visual, lambda: without(images, with_dense=True))
    for with_dense in (False, True):
        features, others = (backbone(images, with_dense=with_dense) for backbone in (with_stem, without))
        assert torch.equal(features.maps[-1], expected)
        assert all(torch.equal(a, b) for a, b in zip(features.maps[:-1], others.maps, strict=True))
    assert with_stem.strides == (*without.strides, side // expected.shape[-1])
    assert with_stem.channels == (*without.channels, expected.shape[1])
    assert with_stem.fingerprint != without.fingerprint
    assert torch.equal(with_stem.shallow(images), without.shallow(images))


@pytest.mark.parametrize("family", sorted(MODEL_CONFIGS))
def test_the_stem_is_affine_in_the_pixels_so_that_no_brightness_or_contrast_is_lost(load: Any, family: str) -> None:
    backbone = load(family, stem=True)
    side = 2 * backbone.multiple_px
    a, b = torch.rand(2, 1, 3, side, side, generator=torch.Generator().manual_seed(0))
    stems = [backbone(image).maps[-1] for image in (a, b, 0.25 * a + 0.75 * b)]
    torch.testing.assert_close(stems[2], 0.25 * stems[0] + 0.75 * stems[1], rtol=1e-4, atol=1e-5)


def test_the_toys_stem_is_affine_too() -> None:
    backbone = ToyBackbone(BackboneConfig(kind="toy", stem=True))
    assert (backbone.strides, backbone.channels) == ((32, 16, 8, 4, 4), (32, 24, 16, 8, 8))
    a, b = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    stems = [backbone(image).maps[-1] for image in (a, b, 0.5 * a + 0.5 * b)]
    torch.testing.assert_close(stems[2], 0.5 * stems[0] + 0.5 * stems[1])


def test_of_convolutions_side_by_side_the_widest_is_the_stem() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.wide = nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(3, 4, 3, stride=2, padding=1)

    assert find_stem(nn.Sequential(Branches(), nn.Conv2d(4, 4, 7))) == "0.wide"


def test_a_network_without_a_convolution_of_pixels_is_refused() -> None:
    with pytest.raises(BackboneError, match="Sequential"):
        find_stem(nn.Sequential(nn.Conv2d(1, 4, 3)))

"""Perceptual terms of the decoder's loss."""

import functools
import sys

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.errors import MissingExtraError, PyramidTokenizerError
from pyramid_tokenizer.training.perceptual import perceptual_distance


def test_none_is_no_distance():
    assert perceptual_distance("none", ToyBackbone()) is None


def test_the_backbones_distance_is_that_of_unit_vectors_of_its_finest_map(smooth):
    backbone, (first, second) = ToyBackbone(), (smooth(2, 32, 32, seed=s) for s in (1, 2))
    distance = perceptual_distance("backbone", backbone)
    ours, theirs = (F.normalize(backbone(x).maps[-1], dim=1) for x in (first, second))
    expected = (ours - theirs).square().sum(1).mean()
    torch.testing.assert_close(distance(first, second), expected)
    assert float(distance(first, first)) == 0.0


def test_its_gradient_reaches_the_pixels_and_lowers_it(smooth):
    distance = perceptual_distance("backbone", ToyBackbone())
    target, image = smooth(1, 32, 32, seed=1), smooth(1, 32, 32, seed=2).requires_grad_(True)
    before = distance(image, target)
    before.backward()
    assert torch.isfinite(image.grad).all()
    step = image.detach() - 1e-2 * image.grad / image.grad.abs().max()
    assert distance(step, target) < before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*'pretrained'|Arguments other than a weight:UserWarning")  # lpips' own
def test_lpips_sees_pixels_in_its_own_range(smooth, monkeypatch):
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    # its trunk's real weights are fetched on first use; random ones obey the same laws
    metric = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    monkeypatch.setattr(lpips, "LPIPS", lambda **options: metric)
    distance = perceptual_distance("lpips", ToyBackbone())
    first, second = smooth(2, 64, 64, seed=1), smooth(2, 64, 64, seed=2)
    image = first.clone().requires_grad_(True)
    value = distance(image, second)
    torch.testing.assert_close(value, metric(2 * first - 1, 2 * second - 1).mean())
    value.backward()
    assert image.grad.any()
    assert not any(p.requires_grad for p in metric.parameters())


def test_a_trunk_that_cannot_be_fetched_is_an_error(monkeypatch):
    lpips = pytest.importorskip("lpips")

    def fail(**options):
        raise OSError("no route")

    monkeypatch.setattr(lpips, "LPIPS", functools.partial(fail))
    with pytest.raises(PyramidTokenizerError, match="LPIPS.*no route"):
        perceptual_distance("lpips", ToyBackbone())


def test_without_lpips_the_pip_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(MissingExtraError, match=r'pip install "pyramid-tokenizer\[lpips\]"'):
        perceptual_distance("lpips", ToyBackbone())

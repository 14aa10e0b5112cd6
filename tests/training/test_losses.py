import math

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.training.losses import (
    PSNR_FLOOR,
    alignment_loss,
    commitment_loss,
    mean_psnr,
    pixel_loss,
    straight_through,
    target_at,
)


def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, 8, 8, generator=generator), torch.rand(3, 3, 8, 8, generator=generator)


def test_pixel_losses_equal_their_formulas():
    images, targets = pair()
    difference = images - targets
    assert float(pixel_loss(images, targets, "l1")) == pytest.approx(float(difference.abs().mean()))
    assert float(pixel_loss(images, targets, "l2")) == pytest.approx(float(difference.square().mean()))
    logs = [math.log(float(d.square().mean()) + PSNR_FLOOR) for d in difference]
    assert float(pixel_loss(images, targets, "psnr")) == pytest.approx(sum(logs) / 3)


@pytest.mark.parametrize("kind", ["l1", "l2", "psnr"])
def test_pixel_losses_take_half_precision_and_are_least_for_the_target(kind):
    images, targets = pair()
    assert pixel_loss(images.bfloat16(), targets, kind).dtype == torch.float32
    assert pixel_loss(targets, targets, kind) < pixel_loss(images, targets, kind)
    assert torch.isfinite(pixel_loss(targets, targets, kind))


def test_the_psnr_loss_falls_as_psnr_rises():
    images, targets = pair()
    nearer = torch.lerp(images, targets, 0.7)
    gained_db = mean_psnr(nearer, targets) - mean_psnr(images, targets)
    fallen = float(pixel_loss(images, targets, "psnr") - pixel_loss(nearer, targets, "psnr"))
    assert fallen == pytest.approx(gained_db * math.log(10) / 10, rel=0.02)


def test_alignment_is_zero_for_equal_and_two_for_opposite_directions():
    unit = F.normalize(torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    assert float(alignment_loss(unit, unit)) == pytest.approx(0, abs=1e-6)
    assert float(alignment_loss(unit, -unit)) == pytest.approx(2, abs=1e-6)


def test_only_the_first_side_of_alignment_and_commitment_learns():
    for loss in (alignment_loss, commitment_loss):
        left, right = (torch.rand(1, 4, 2, 2, requires_grad=True) for _ in range(2))
        loss(left, right).backward()
        assert left.grad.any()
        assert right.grad is None


def test_straight_through_gives_codes_forward_and_the_projections_gradient_backward():
    projected, codes = torch.rand(1, 4, 2, 2, requires_grad=True), torch.rand(1, 4, 2, 2, requires_grad=True)
    out = straight_through(projected, codes)
    torch.testing.assert_close(out, codes)
    weight = torch.rand(1, 4, 2, 2)
    (out * weight).sum().backward()
    assert torch.equal(projected.grad, weight)
    assert codes.grad is None


def test_targets_are_area_means():
    images, _ = pair()
    small = target_at(images, 4)
    assert small.shape == (3, 3, 2, 2)
    torch.testing.assert_close(small[1, 2, 0, 1], images[1, 2, :4, 4:].mean())
    assert target_at(images, 1) is images


def test_mean_psnr_is_the_mean_of_the_images_own():
    images, targets = pair()
    each = [-10 * math.log10(float((i - t).square().mean())) for i, t in zip(images, targets, strict=True)]
    assert mean_psnr(images, targets) == pytest.approx(sum(each) / 3, rel=1e-5)
    assert mean_psnr(targets, targets) == pytest.approx(100)
    assert mean_psnr(targets + 0.0 + (targets > 0.99) * 5, targets) > 40  # clamped as an image would be

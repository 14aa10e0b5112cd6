import math
import sys

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from pyramid_tokenizer.errors import ImageValueError, MissingExtraError
from pyramid_tokenizer.evaluation import psnr, ssim


def pair(count=3, height=16, width=24):
    pixels = np.random.default_rng(0).integers(0, 256, (2, count, 3, height, width), dtype=np.uint8)
    noisy = (0.8 * pixels[0] + 0.2 * pixels[1]).astype(np.uint8)
    return pixels[0], noisy


def as_images(pixels):
    return torch.from_numpy(pixels).float() / 255


def test_psnr_is_the_number_computed_by_hand():
    a = torch.zeros(2, 3, 2, 2)
    b = a.clone()
    b[0, 0, 0, 0] = 1.0  # one of 12 values is off by 255: 10 log10(12)
    b[1] = 2 / 255  # all are off by 2: 10 log10(255^2 / 4)
    expected = torch.tensor([10 * math.log10(12), 10 * math.log10(255**2 / 4)], dtype=torch.float64)
    torch.testing.assert_close(psnr(a, b), expected, rtol=1e-12, atol=0)


def test_ssim_is_scikit_images_with_the_papers_settings_for_each_image():
    a, b = pair()
    settings = {
        "data_range": 255,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "win_size": 11,
    }
    expected = [
        structural_similarity(x.transpose(1, 2, 0), y.transpose(1, 2, 0), channel_axis=2, **settings)
        for x, y in zip(a, b, strict=True)
    ]
    values = ssim(as_images(a), as_images(b))
    assert values.dtype == torch.float64
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))


def test_both_compare_8_bit_pixels():
    a, b = pair()
    nudged = (as_images(b) + 0.4 / 255).clamp(max=1)
    assert torch.equal(psnr(as_images(a), nudged), psnr(as_images(a), as_images(b)))
    assert torch.equal(ssim(as_images(a), nudged), ssim(as_images(a), as_images(b)))


def test_the_same_image_is_perfect_without_a_warning():
    a = as_images(pair()[0])
    assert psnr(a, a + 0).tolist() == [math.inf] * 3
    assert ssim(a, a + 0).tolist() == [1.0] * 3


def test_each_image_is_measured_alone():
    a, b = map(as_images, pair())
    for metric in (psnr, ssim):
        alone = torch.cat([metric(a[i : i + 1], b[i : i + 1]) for i in range(3)])
        assert torch.equal(metric(a, b), alone)
        assert torch.equal(metric(b.flip(0), a.flip(0)), alone.flip(0))


def test_every_8_bit_value_survives_in_float32_and_float64():
    ramp = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    for dtype in (torch.float32, torch.float64):
        assert psnr(ramp.to(dtype) / 255, ramp.float() / 255).item() == math.inf
        assert psnr(ramp.to(dtype) / 255, ramp).item() == math.inf


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17), r"\(1, 3, 16, 16\) and \(1, 3, 16, 17\)"),
        (torch.zeros(3, 16, 16), torch.zeros(3, 16, 16), r"\(3, 16, 16\)"),
        (torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16), r"\(1, 1, 16, 16\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int64), torch.zeros(1, 3, 16, 16), "torch.int64"),
        (torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 1.01), r"\[0, 1\]"),
        (torch.full((1, 3, 16, 16), -0.01), torch.zeros(1, 3, 16, 16), r"\[0, 1\]"),
        (torch.full((1, 3, 16, 16), math.nan), torch.zeros(1, 3, 16, 16), "NaN"),
    ],
)
def test_what_is_no_pair_of_images_is_refused(a, b, says):
    for metric in (psnr, ssim):
        with pytest.raises(ImageValueError, match=says):
            metric(a, b)


def test_ssim_refuses_a_side_shorter_than_its_window():
    enough, short = torch.zeros(1, 3, 11, 16), torch.zeros(1, 3, 16, 10)
    assert ssim(enough, enough).item() == 1.0
    with pytest.raises(ImageValueError, match=r"11 px.*\(16, 10\)"):
        ssim(short, short)


def test_without_scikit_image_the_pip_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    images = torch.zeros(1, 3, 16, 16)
    assert psnr(images, images).item() == math.inf
    with pytest.raises(MissingExtraError, match=r'pip install "pyramid-tokenizer\[eval\]"'):
        ssim(images, images)

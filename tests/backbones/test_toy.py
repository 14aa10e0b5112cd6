"""What the toy backbone promises beyond the common laws."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import ConfigError

TOY_FINGERPRINT = "040adc47a542652f14aca48ef52b1361222d5af1732460608e70057e65abdcdc"
"""Changes only when the toy's formulas are changed on purpose: stored toy tokens break with it."""


def test_its_weights_are_the_same_bits_on_every_machine() -> None:
    assert ToyBackbone().fingerprint == TOY_FINGERPRINT


def test_making_one_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    ToyBackbone()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_kernels_of_every_step_are_orthogonal() -> None:
    for kernel in ToyBackbone().kernels:
        rows = kernel.flatten(1)
        product = rows @ rows.T
        torch.testing.assert_close(product, product[0, 0] * torch.eye(len(rows)), rtol=0, atol=1e-5)


def test_a_image_made_of_the_kept_patterns_comes_back_from_the_finest_map() -> None:
    backbone = ToyBackbone()
    kernel = backbone.kernels[0]
    codes = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    images = 0.5 + 0.02 * F.conv_transpose2d(codes, 16 * kernel, stride=4)
    finest = backbone(images).maps[-1]
    unbent = finest.sign() * ((1 + 0.2 * finest.abs()).sqrt() - 1) / 0.1  # inverse of x + 0.05 x |x|
    torch.testing.assert_close(0.5 + 0.25 * F.conv_transpose2d(unbent, 16 * kernel, stride=4), images)


def test_coarse_maps_average_what_finer_ones_hold() -> None:
    features = ToyBackbone()(torch.full((1, 3, 32, 32), 0.75))
    bend = lambda x: x + 0.05 * x * abs(x)  # noqa: E731
    luma = 3**0.5  # a flat image at one standard deviation above the mean
    for found in reversed(features.maps):
        luma = bend(luma)
        torch.testing.assert_close(found[:, 0], torch.full_like(found[:, 0], luma), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[:, 1:], torch.zeros_like(found[:, 1:]), rtol=0, atol=1e-5)


def test_maps_are_not_linear_functions_of_each_other() -> None:
    backbone = ToyBackbone()
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    coarse, fine = backbone(images).maps[2:]
    inputs = F.pixel_unshuffle(fine, 2).permute(0, 2, 3, 1).flatten(0, 2)
    outputs = coarse.permute(0, 2, 3, 1).flatten(0, 2)
    unexplained = outputs - inputs @ torch.linalg.lstsq(inputs, outputs).solution
    assert (unexplained.std(dim=0) > 1e-3 * outputs.std(dim=0)).all()


def test_its_embedding_is_the_mean_of_the_dense_features_and_dense_a_projection_of_the_coarsest() -> None:
    backbone = ToyBackbone()
    features = backbone(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)), with_dense=True)
    expected = torch.einsum("dc,bchw->bdhw", backbone.projection[:, :, 0, 0], features.maps[0])
    torch.testing.assert_close(features.dense, expected)
    torch.testing.assert_close(features.embedding, expected.mean(dim=(2, 3)))


def test_text_rows_follow_from_the_text_alone() -> None:
    rows = ToyBackbone().encode_text(["a cat", "ein Wölkchen"])
    for row, text in zip(rows, ["a cat", "ein Wölkchen"], strict=True):
        digest = hashlib.sha256(text.encode("utf-8")).digest()
        numbers = [digest[2 * i] + 256 * digest[2 * i + 1] - 32767.5 for i in range(16)]
        length = sum(number**2 for number in numbers) ** 0.5
        torch.testing.assert_close(row, torch.tensor([number / length for number in numbers]))


def test_saving_writes_nothing(tmp_path: Path) -> None:
    ToyBackbone().save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_config_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="toy"):
        ToyBackbone(BackboneConfig(kind="open_clip"))

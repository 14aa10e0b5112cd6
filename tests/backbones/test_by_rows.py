"""Backbones that run by rows: the same maps, embedding and dense features as of the whole image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyramid_tokenizer.backbones import rows
from pyramid_tokenizer.backbones.rows import Reach, RowStream, measure_reach
from pyramid_tokenizer.errors import CapabilityError, ImageValueError


class SqueezeExcite(nn.Module):
    """Scales channels by their mean over the whole map."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True)


def image(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["toy", "resnet", "convnext", pytest.param("fasternet", marks=pytest.mark.slow)])
def backbone(request, load):
    return load(request.param, stem=True)


def gather(backbone, images, *, band_px, with_dense):
    """The maps put together from rows, and the other outputs."""
    found, ended = {}, {}

    def read(index, part, last):
        found.setdefault(index, []).append(part)
        ended[index] = last

    outputs = backbone.by_rows(images.split(band_px, dim=2), read, with_dense=with_dense)
    assert all(ended.values())
    return [torch.cat(found[index], 2) for index in sorted(found)], outputs


@pytest.mark.parametrize("floats_per_run", [1500, pytest.param(1, marks=pytest.mark.slow)])
def test_maps_and_outputs_are_those_of_the_whole_image(backbone, monkeypatch, floats_per_run):
    monkeypatch.setattr(rows, "FLOATS_PER_RUN", floats_per_run)
    monkeypatch.setattr(rows, "HALOS_PER_RUN", 1)
    images = image(160, 32)
    whole = backbone(images, with_dense=True)
    assert backbone.runs_by_rows
    maps, outputs = gather(backbone, images, band_px=32, with_dense=True)
    assert len(maps) == len(whole.maps) == 5
    expected_outputs = (*whole.maps, whole.embedding, whole.dense)
    for found, expected in zip((*maps, outputs.embedding, outputs.dense), expected_outputs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_without_dense_features_blocks_behind_the_last_map_do_not_run(load):
    backbone = load("convnext", blocks=(0, 1))
    ran = []
    backbone.model.visual.trunk.stages[2].blocks[0].register_forward_hook(lambda *_: ran.append(1))
    assert backbone.runs_by_rows
    ran.clear()
    maps, outputs = gather(backbone, image(96, 32), band_px=32, with_dense=False)
    assert [tuple(found.shape[2:]) for found in maps] == [(12, 4), (24, 8)]
    assert outputs.embedding is None
    assert not ran


@pytest.mark.parametrize("family", ["vit", "timm_vit"])
def test_a_vit_does_not_run_by_rows(load, family):
    backbone = load(family)
    assert not backbone.runs_by_rows
    with pytest.raises(CapabilityError):
        backbone.by_rows([image(32, 32)], lambda *_: None)


def test_bands_are_checked_like_images(load):
    with pytest.raises(ImageValueError, match="48"):
        load("resnet").by_rows([image(48, 64)], lambda *_: None)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (nn.Conv2d(3, 2, 7, padding=3), Reach(ratio=1, halo=3)),
        (nn.Conv2d(3, 2, 3, padding=2, dilation=2), Reach(ratio=1, halo=2)),
        (nn.Conv2d(3, 2, 4, stride=4), Reach(ratio=4, halo=0)),
        (nn.Conv2d(3, 2, 3, stride=2, padding=1), Reach(ratio=2, halo=1)),
        (nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.GELU(), nn.AvgPool2d(2)), Reach(ratio=2, halo=1)),
        (SqueezeExcite(), Reach(ratio=1, halo=None)),
    ],
)
def test_what_a_unit_depends_on_is_measured(unit, expected):
    with torch.no_grad():
        assert measure_reach(unit, torch.zeros(1, 3, 16, 8)) == expected


@torch.no_grad()
def test_a_unit_that_depends_on_all_rows_waits_for_them(monkeypatch):
    monkeypatch.setattr(rows, "FLOATS_PER_RUN", 1)
    x, unit = image(12, 4), SqueezeExcite()
    stream = RowStream(run=unit, reach=Reach(ratio=1, halo=None))
    assert stream.push(x[:, :, :5]) is None
    assert stream.push(x[:, :, 5:11]) is None
    found = stream.push(x[:, :, 11:], last=True)
    assert found is not None
    assert torch.equal(found, unit(x))


@torch.no_grad()
def test_a_unit_waits_for_enough_rows_and_reads_few_more(monkeypatch):
    monkeypatch.setattr(rows, "FLOATS_PER_RUN", 10)
    monkeypatch.setattr(rows, "HALOS_PER_RUN", 5)
    seen = []

    def unit(x):
        seen.append(x.shape[2])
        return x

    stream = RowStream(run=unit, reach=Reach(ratio=1, halo=3))
    for start in range(0, 100, 10):
        stream.push(torch.zeros(1, 1, 10, 1), last=start == 90)
    # five times the halo are whole in 20 rows but not in 10; then 20 rows run, with three at either side
    assert seen == [20, 26, 26, 26, 26]

"""The kinds of codebooks that a config can ask for: learned entries, residual levels on one grid, scalars."""

import itertools
import math

import pytest
import torch

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.closed_form import fit_quantizer
from pyramid_tokenizer.config import LevelConfig, QuantizerConfig
from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.fsq import grid
from pyramid_tokenizer.quantizer import PyramidQuantizer


def quantizer_of(levels, composition="residual"):
    tower = ToyBackbone()
    return PyramidQuantizer(
        QuantizerConfig(levels=tuple(levels), composition=composition),
        channels=tower.channels,
        strides=tower.strides,
        embedding_dim=tower.embedding_dim,
    )


def build_fsq(composition="residual", fsq=((4, 3), (4, 3, 2), (4, 4, 3))):
    return quantizer_of(
        (
            LevelConfig(stride=s, maps=m, codebook_size=math.prod(e), dim=len(e), fsq=e)
            for s, m, e in zip((32, 16, 8), ((0, 1), (1, 2), (2, 3)), fsq, strict=True)
        ),
        composition,
    )


def fit(quantizer, images, **options):
    tower = ToyBackbone()
    return fit_quantizer(quantizer, lambda: ((tower(b, aligned=True), b) for b in images.split(8)), **options)


@pytest.mark.parametrize("composition", ["residual", "bottom_up", "none"])
def test_levels_of_scalars_use_their_grids_and_paint_better_the_longer_the_prefix(composition, smooth):
    quantizer, images = build_fsq(composition), smooth(48)
    fit(quantizer, images)
    ids = quantizer.encode(ToyBackbone()(images))
    for index, level_ids in enumerate(ids):
        level = quantizer.level(index)
        assert torch.equal(level.codebook, grid(level.config.fsq))
        counts = torch.bincount(level_ids.flatten(), minlength=level.config.codebook_size)
        assert (counts > 0).float().mean() >= 0.9, counts
    errors = [float((quantizer.sketch(quantizer.codes(ids[:n])) - images).square().mean()) for n in (1, 2, 3)]
    flat = float((images - images.mean((0, 2, 3), keepdim=True)).square().mean())
    assert all(longer < 0.95 * shorter for shorter, longer in itertools.pairwise([flat, *errors]))


def test_directions_of_a_level_of_scalars_are_uncorrelated_and_of_unit_deviation_before_the_bound(smooth):
    quantizer = build_fsq("none")
    fit(quantizer, smooth(48), vectors_per_code=10_000)
    for projected in quantizer.encode_continuous(ToyBackbone()(smooth(48))):
        rows = projected.double().atanh().permute(0, 2, 3, 1).flatten(0, 2)
        torch.testing.assert_close(
            torch.cov(rows.T, correction=0), torch.eye(rows.shape[1]).double(), rtol=0, atol=0.02
        )
        torch.testing.assert_close(rows.mean(0), torch.zeros(rows.shape[1]).double(), rtol=0, atol=0.01)


def test_the_first_directions_of_a_level_of_scalars_tell_the_most_about_pixels(smooth):
    quantizer, images = build_fsq("none", fsq=((3, 3), (3, 3, 3), (3, 3, 3, 3))), smooth(48)
    fit(quantizer, images)
    level = quantizer.level(2)
    x = quantizer.encode_continuous(ToyBackbone()(images))[2].permute(0, 2, 3, 1).flatten(0, 2)
    contributions = (level.paint.weight.square().sum(0) * x.var(0)).tolist()
    assert contributions == sorted(contributions, reverse=True)


def test_fewer_directions_than_scalars_are_an_error(smooth):
    grey = (
        smooth(16).mean((2, 3), keepdim=True).mean(1, keepdim=True).expand(-1, 3, 64, 64)
    )  # flat, of one brightness each
    with pytest.raises(DataError, match="expected images that differ in 3 directions at level 0, .* got [12]: check"):
        fit(build_fsq(fsq=((2, 2, 3), (4, 3, 2), (4, 4, 3))), grey)
    with pytest.raises(DataError, match="expected images that differ in 2 directions at level 0, .* got 0: check"):
        fit(build_fsq(), torch.full((16, 3, 64, 64), 0.5))


def residual_stages(sizes=(32, 32, 32)):
    """Three levels on one grid."""
    return [LevelConfig(stride=8, maps=(2, 3), codebook_size=k, dim=6) for k in sizes]


def test_each_residual_level_on_one_grid_lowers_the_error_of_held_out_pictures(smooth):
    quantizer, held_out = quantizer_of(residual_stages()), smooth(8, seed=5)
    reports = fit(quantizer, smooth(32))
    assert all(r.pixels_explained > 0.2 for r in reports)  # of what the levels before it left
    codes = quantizer.codes(quantizer.encode(ToyBackbone()(held_out)))
    assert {tuple(c.shape[2:]) for c in codes} == {(8, 8)}
    errors = [float((quantizer.sketch(codes[:n]) - held_out).square().mean()) for n in (1, 2, 3)]
    assert errors[1] < 0.75 * errors[0]
    assert errors[2] < 0.9 * errors[1]

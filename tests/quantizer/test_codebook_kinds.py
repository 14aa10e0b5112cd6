"""The kinds of codebooks that a config can ask for: learned entries, residual levels on one grid, scalars."""

import dataclasses
import itertools
import json
import math

import pytest
import torch

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.images.read import to_batch
from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.codebooks import grid
from pyramid_tokenizer.quantizer.fit.levels import fit_quantizer
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid


def quantizer_of(levels, composition="residual"):
    tower = ToyBackbone()
    return build_quantizer(
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
    return fit_quantizer(quantizer, lambda: ((tower(b, with_dense=True), b) for b in images.split(8)), **options)


@pytest.mark.parametrize(
    "composition", ["residual", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bottom_up", "none"))]
)
def test_levels_of_scalars_use_their_grids_and_paint_better_the_longer_the_prefix(composition, smooth):
    quantizer, images = build_fsq(composition), smooth(48)
    fit(quantizer, images)
    ids = quantizer.encode(ToyBackbone()(images))
    for index, level_ids in enumerate(ids):
        level = quantizer.level(index)
        assert torch.equal(level.codebook, grid(level.kind.entries))
        counts = torch.bincount(level_ids.flatten(), minlength=level.codebook_size)
        assert (counts > 0).float().mean() >= 0.9, counts
    errors = [
        float((quantizer.linear_reconstruction(quantizer.codes(ids[:n])) - images).square().mean()) for n in (1, 2, 3)
    ]
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
    contributions = (level.pixel_readout.weight.square().sum(0) * x.var(0)).tolist()
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


def test_each_residual_level_on_one_grid_lowers_the_error_of_held_out_images(smooth):
    quantizer, held_out = quantizer_of(residual_stages()), smooth(8, seed=5)
    reports = fit(quantizer, smooth(32))
    assert all(r.pixels_explained > 0.2 for r in reports)  # of what the levels before it left
    codes = quantizer.codes(quantizer.encode(ToyBackbone()(held_out)))
    assert {tuple(c.shape[2:]) for c in codes} == {(8, 8)}
    errors = [float((quantizer.linear_reconstruction(codes[:n]) - held_out).square().mean()) for n in (1, 2, 3)]
    assert errors[1] < 0.75 * errors[0]
    assert errors[2] < 0.9 * errors[1]


def learned(stride, maps, size, dim=8):
    return LevelConfig(stride=stride, maps=maps, codebook_size=size, dim=dim)


def scalars(stride, maps, *entries):
    return LevelConfig(stride=stride, maps=maps, codebook_size=math.prod(entries), dim=len(entries), fsq=entries)


PYRAMIDS = {
    "learned": (learned(32, (0, 1), 32), learned(16, (1, 2), 128), learned(8, (2, 3), 512)),
    "residual levels": (
        learned(16, (1, 2), 128),
        learned(16, (1, 2), 128),
        learned(8, (2, 3), 256),
        learned(8, (2, 3), 512),
    ),
    "scalars": (scalars(32, (0, 1), 4, 4, 2), scalars(16, (1, 2), 8, 4, 4), scalars(8, (2, 3), 8, 8, 8)),
    "residual scalars": (scalars(16, (1, 2), 8, 4, 4), scalars(16, (1, 2), 4, 4, 4), scalars(8, (2, 3), 8, 8, 4)),
}


def tokenizer_of(levels, backbone=None):
    widths = (4,) * len(levels)
    config = TokenizerConfig(
        backbone=BackboneConfig(kind="toy") if backbone is None else backbone.config,
        quantizer=QuantizerConfig(levels=levels),
        decoder=DecoderConfig(widths=widths, depths=(1,) * len(levels), pixel_widths=(4,), pixel_depth=0),
    )
    return PyramidTokenizer.from_config(config, backbone=backbone)


@pytest.fixture(scope="module", params=PYRAMIDS)
def fitted(request, smooth):
    tok = tokenizer_of(PYRAMIDS[request.param])
    tok.fit([smooth(20)])
    return tok


def test_tokens_of_every_prefix_survive_bytes_and_the_vocabulary_and_decode(fitted, smooth):
    images = smooth(2, 40, 56, seed=4)
    tokens = fitted.encode(images)
    strides = fitted.quantizer.strides
    assert tokens.grids == tuple(
        (-(-40 // strides[0]) * strides[0] // s, -(-56 // strides[0]) * strides[0] // s) for s in strides
    )
    errors = []
    for n in range(1, len(strides) + 1):
        prefix = tokens[:n]
        assert TokenPyramid.from_bytes(prefix.to_bytes()) == prefix
        assert fitted.vocabulary.unflatten(fitted.vocabulary.flatten(prefix)) == prefix
        errors.append(float((fitted.decode(prefix) - images).square().mean()))
    assert all(longer < 0.97 * shorter for shorter, longer in itertools.pairwise(errors))
    for codes, ids, index in zip(fitted.codes(tokens), tokens.ids, itertools.count(), strict=False):
        assert torch.equal(fitted.quantizer.level(index).assign(codes), ids)  # an entry is its own nearest entry


def test_a_saved_tokenizer_comes_back_with_its_fingerprint_and_ids(fitted, smooth, tmp_path):
    fitted.save_pretrained(tmp_path)
    again = PyramidTokenizer.from_pretrained(tmp_path)
    assert again.config.quantizer == fitted.config.quantizer
    assert again.fingerprint == fitted.fingerprint
    images = smooth(3, seed=4)
    assert again.encode(images) == fitted.encode(images)
    assert torch.equal(again.reconstruct(images), fitted.reconstruct(images))
    written = json.loads((tmp_path / "config.json").read_text())["quantizer"]["levels"]
    assert [level["fsq"] for level in written] == [list(c.fsq) for c in fitted.config.quantizer.levels]


def test_learned_entries_that_lie_on_the_grid_are_another_tokenizer_than_the_grid(smooth):
    tok = tokenizer_of(PYRAMIDS["scalars"])
    tok.fit([smooth(20)])
    levels = tuple(dataclasses.replace(level, fsq=()) for level in PYRAMIDS["scalars"])
    other = tokenizer_of(levels)
    other.load_own(tok.own_tensors())  # the same numbers, without the bound
    assert other.fingerprint != tok.fingerprint


def test_fewer_cells_than_grid_points_are_an_error(smooth):
    with pytest.raises(DataError, match="expected at least 32 cells for level 0, got 16 in 4 images"):
        tokenizer_of(PYRAMIDS["scalars"]).fit([smooth(4)])


@pytest.fixture(scope="module")
def crops():
    """(64, 3, 128, 128) of five photos."""
    data = pytest.importorskip("skimage.data")
    photos = (data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0])
    patches = [
        to_batch(photo).unfold(2, 128, 128).unfold(3, 128, 128) for photo in photos
    ]  # (1, 3, rows, columns, 128, 128)
    return torch.cat([patch[0].flatten(1, 2).transpose(0, 1) for patch in patches])


@pytest.mark.slow
@pytest.mark.parametrize("name", PYRAMIDS)
def test_at_least_nine_tenths_of_every_codebook_are_used_on_photos(name, crops):
    """The bundled backbone; 32 to 64 cells per entry."""
    tok = tokenizer_of(PYRAMIDS[name], backbone=PyramidTokenizer.from_pretrained("tiny").backbone)
    reports = tok.fit([crops])
    tokens = tok.encode(crops)
    health = tok.health(tokens)
    errors = [float((tok.decode(tokens[:n]) - crops).square().mean()) for n in range(1, len(reports) + 1)]
    print(f"\n{name}\n{health}")
    for report, error in zip(reports, errors, strict=True):
        psnr = -10 * math.log10(error)
        print(f"level {report.level}: explains {report.pixels_explained:.3f} of what was left, {psnr:.2f} dB so far")
    assert all(level.usage >= 0.9 for level in health.levels), health
    assert all(longer < 0.9 * shorter for shorter, longer in itertools.pairwise(errors))

"""Refits: `keep_adapters=True` moves codebooks and read-outs to other images, and nothing else."""

import copy
import math

import pytest
import torch

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.config.models import LevelConfig, QuantizerConfig
from pyramid_tokenizer.errors import DataError, NotFittedError, TooFewCellsError
from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.fit.levels import fit_quantizer
from pyramid_tokenizer.tokenizer import PyramidTokenizer


def quantizer_of(levels, composition="residual"):
    backbone = ToyBackbone()
    return build_quantizer(
        QuantizerConfig(levels=tuple(levels), composition=composition),
        channels=backbone.channels,
        strides=backbone.strides,
        embedding_dim=backbone.embedding_dim,
    )


def build(composition="residual", semantic_weight=0.0, sizes=(12, 24, 48), distance="euclidean"):
    levels = (
        LevelConfig(stride=s, maps=m, codebook_size=k, dim=8, distance=distance, semantic_weight=semantic_weight)
        for s, m, k in zip((32, 16, 8), ((0, 1), (1, 2), (2, 3)), sizes, strict=True)
    )
    return quantizer_of(levels, composition)


def build_fsq(composition="residual", fsq=((4, 3), (4, 3, 2), (4, 4, 3))):
    return quantizer_of(
        (
            LevelConfig(stride=s, maps=m, codebook_size=math.prod(e), dim=len(e), fsq=e)
            for s, m, e in zip((32, 16, 8), ((0, 1), (1, 2), (2, 3)), fsq, strict=True)
        ),
        composition,
    )


def fit(quantizer, images, **options):
    backbone = ToyBackbone()
    return fit_quantizer(quantizer, lambda: ((backbone(b, with_dense=True), b) for b in images.split(8)), **options)


def quantisation_losses(quantizer, images):
    """Per level, the share of the projections' variance that the present codebooks lose."""
    losses, codes = [], {}
    features = ToyBackbone()(images)
    for index in quantizer.order:
        projected = quantizer.level(index).project(quantizer.level_input(index, features, codes))
        codes[index] = quantizer.level(index).look_up(quantizer.level(index).assign(projected))
        centred = projected - projected.mean((0, 2, 3), keepdim=True)
        losses.append(float((projected - codes[index]).square().sum() / centred.square().sum()))
    return losses


def state(quantizer):
    return copy.deepcopy(quantizer.state_dict())


def kept_names(quantizer):
    return [n for n in quantizer.state_dict() if n.rsplit(".", 1)[-1] in ("mean", "std") or ".adapter." in n]


@pytest.mark.parametrize(
    ("composition", "distance"),
    [
        ("residual", "euclidean"),
        pytest.param("bottom_up", "cosine", marks=pytest.mark.slow),
        pytest.param("none", "euclidean", marks=pytest.mark.slow),
    ],
)
def test_a_refit_on_the_same_images_changes_little(composition, distance, smooth):
    quantizer, images = build(composition, distance=distance), smooth(24)
    first, before = fit(quantizer, images), state(quantizer)
    second = fit(quantizer, images, keep_adapters=True)
    after = quantizer.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in kept_names(quantizer))
    for old, new in zip(first, second, strict=True):
        assert new.vectors == old.vectors
        assert new.quantisation_loss <= old.quantisation_loss + 0.02
        assert new.pixels_explained == pytest.approx(old.pixels_explained, abs=0.04)
    for index in range(3):
        old, new = (s[f"levels.{index}.codebook"] for s in (before, after))
        moved = (new - old).square().sum(1).sqrt() / (old - old.mean(0)).square().sum(1).mean().sqrt()
        assert moved.median() < 0.2  # an entry is where it was: its id keeps its meaning


def other_domain(smooth, count=24, seed=3):
    """Bright, of a few strong colours and little detail."""
    return (smooth(count, seed=seed).sub(0.5).mul(1.6) * torch.tensor([0.2, 1.5, 0.7])[:, None, None] + 0.6).clamp(0, 1)


@pytest.mark.parametrize("composition", [pytest.param("residual", marks=pytest.mark.slow), "bottom_up"])
def test_a_refit_on_other_images_serves_them_better_through_the_same_adapters(composition, smooth):
    quantizer = build(composition)
    fit(quantizer, smooth(24))
    old, other, held_out = copy.deepcopy(quantizer), other_domain(smooth), other_domain(smooth, 8, seed=4)
    reports = fit(quantizer, other, keep_adapters=True)
    assert [r.level for r in reports] == [0, 1, 2]
    for name in kept_names(quantizer):
        assert torch.equal(quantizer.state_dict()[name], old.state_dict()[name]), name
    for before, after in zip(quantisation_losses(old, other), quantisation_losses(quantizer, other), strict=True):
        assert after < 0.8 * before
    features = ToyBackbone()(held_out)
    errors = [
        float((q.linear_reconstruction(q.codes(q.encode(features))) - held_out).square().mean())
        for q in (old, quantizer)
    ]
    assert errors[1] < 0.75 * errors[0]


def test_a_refit_brings_unused_entries_back(smooth):
    quantizer, images = build("none"), smooth(24)
    fit(quantizer, images)
    for index in range(3):
        quantizer.level(index).codebook[::2] = 50.0  # far from everything
    features = ToyBackbone()(images)
    sizes = quantizer.codebook_sizes
    used = [len(ids.unique()) for ids in quantizer.encode(features)]
    assert all(u <= k // 2 for u, k in zip(used, sizes, strict=True))
    fit(quantizer, images, keep_adapters=True)
    assert [len(ids.unique()) for ids in quantizer.encode(features)] == list(sizes)


def test_a_refit_of_scalars_keeps_the_grid_and_renews_the_read_outs(smooth):
    quantizer = build_fsq()
    fit(quantizer, smooth(24))
    before, other = copy.deepcopy(quantizer), other_domain(smooth)
    fit(quantizer, other, keep_adapters=True)
    for name in [*kept_names(quantizer), *(f"levels.{i}.codebook" for i in range(3))]:
        assert torch.equal(quantizer.state_dict()[name], before.state_dict()[name]), name
    features = ToyBackbone()(other)
    errors = [
        float((q.linear_reconstruction(q.codes(q.encode(features))) - other).square().mean())
        for q in (before, quantizer)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_a_refit_needs_a_fit(smooth):
    with pytest.raises(NotFittedError, match="expected fitted codebooks to refit, got empty ones: fit without keep_ad"):
        fit(build(), smooth(24), keep_adapters=True)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((16, 3, 64, 64), 0.5), "2 different cells for the 2 codes of level 0, got 1"),
        (None, "cells for level 2, got 64"),
    ],
)
def test_a_refit_that_fails_leaves_the_quantizer_as_it_was(images, message, smooth):
    quantizer = build(sizes=(2, 4, 100))
    fit(quantizer, smooth(24))
    before = state(quantizer)
    with pytest.raises(DataError, match=message):
        fit(quantizer, smooth(1) if images is None else images, keep_adapters=True)
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_refit_on_fewer_different_cells_than_codes_says_that_codebooks_can_stay(smooth):
    quantizer = build(sizes=(4, 4, 4))
    fit(quantizer, smooth(24))
    with pytest.raises(TooFewCellsError, match='4 different cells .* level 0, got 2 in 6: .*codebooks="frozen"'):
        fit(quantizer, smooth(2, 32, 32).repeat(3, 1, 1, 1), keep_adapters=True)


def test_a_tokenizers_refit_changes_codebooks_and_read_outs_alone(toy_tokenizer, smooth):
    tok = copy.deepcopy(toy_tokenizer)
    reports = tok.fit([smooth(16, seed=8)], keep_adapters=True)
    assert [report.level for report in reports] == [0, 1, 2]
    changed = {n for n, t in tok.own_tensors().items() if not torch.equal(t, toy_tokenizer.own_tensors()[n])}
    parts = (
        "codebook",
        "pixel_readout.weight",
        "pixel_readout.bias",
        "text_readout.weight",
        "text_readout.bias",
    )
    expected = {f"quantizer.levels.{i}.{part}" for i in range(3) for part in parts}
    image = {"image.codebook_0", "image.codebook_1", "to_embedding.weight", "to_embedding.bias"}
    assert changed == expected | {f"quantizer.{name}" for name in image}
    assert tok.fingerprint != toy_tokenizer.fingerprint


def test_a_tokenizers_refit_before_a_fit_says_so(toy_config, smooth):
    with pytest.raises(NotFittedError, match="expected fitted codebooks to refit, got empty ones"):
        PyramidTokenizer.from_config(toy_config).fit([smooth(16)], keep_adapters=True)

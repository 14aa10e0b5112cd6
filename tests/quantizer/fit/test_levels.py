import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.backbones.features import FeaturePyramid, semantic_target
from pyramid_tokenizer.config.models import LevelConfig, QuantizerConfig
from pyramid_tokenizer.errors import DataError, TooFewCellsError
from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.fit import levels, sampling
from pyramid_tokenizer.quantizer.fit.image_codes import EMBEDDING_RIDGE
from pyramid_tokenizer.quantizer.fit.kmeans import kmeans
from pyramid_tokenizer.quantizer.fit.levels import fit_quantizer, fit_read_outs
from pyramid_tokenizer.quantizer.fit.regression import reduced_rank, ridge, whitening
from pyramid_tokenizer.quantizer.fit.sampling import _Cells
from pyramid_tokenizer.quantizer.nearest import gather_rows, nearest
from pyramid_tokenizer.quantizer.regrid import join_parts


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


def source(images):
    backbone = ToyBackbone()
    return lambda: ((backbone(b, with_dense=True), b) for b in images.split(8))


def fit(quantizer, images, **options):
    return fit_quantizer(quantizer, source(images), **options)


@pytest.mark.parametrize(
    ("composition", "distance"),
    [
        ("residual", "cosine"),
        pytest.param("residual", "euclidean", marks=pytest.mark.slow),
        pytest.param("bottom_up", "cosine", marks=pytest.mark.slow),
    ],
)
def test_each_longer_prefix_has_a_better_linear_reconstruction_of_held_out_images(composition, distance, smooth):
    quantizer = build(composition, distance=distance)
    fit(quantizer, smooth(24))
    held_out = smooth(6, seed=5)
    codes = quantizer.codes(quantizer.encode(ToyBackbone()(held_out)))
    errors = [float((quantizer.linear_reconstruction(codes[:n]) - held_out).square().mean()) for n in (1, 2, 3)]
    flat = float((held_out - held_out.mean((0, 2, 3), keepdim=True)).square().mean())
    assert all(longer < 0.9 * shorter for shorter, longer in itertools.pairwise([flat, *errors]))


def test_a_level_is_whitening_then_regression_then_kmeans_of_its_sample(smooth):
    """The slow way, all cells at once: bit for bit the same."""
    level, images = LevelConfig(stride=8, maps=(2, 3), codebook_size=20, dim=6), smooth(20)
    quantizer = quantizer_of([level])
    fit(quantizer, images, vectors_per_code=40)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        keys = torch.cat([torch.rand(len(b) * 64, generator=generator) for b in images.split(8)])
        sample = keys.argsort()[: 40 * 20]
        x = join_parts(quantizer.level_input(0, ToyBackbone()(images), {}))
        x, pixels = (m.permute(0, 2, 3, 1).flatten(0, 2)[sample] for m in (x, F.pixel_unshuffle(images, 8)))
        mean, std = whitening(x)
        x, pixels = (x - mean) / std, pixels - pixels.mean(0)
        down = reduced_rank(x, pixels / pixels.square().sum(1).mean().sqrt(), 6)
        projected = x @ down.weight + down.bias
        scale = 1 / projected.square().mean().sqrt()
        entries = kmeans(projected * scale, 20, iterations=levels.ITERATIONS, generator=generator)
    fitted = quantizer.level(0)
    for ours, expected in (
        (fitted.mean, mean),
        (fitted.std, std),
        (fitted.adapter.weight, (down.weight * scale).T),
        (fitted.adapter.bias, down.bias * scale),
        (fitted.codebook, entries),
    ):
        assert torch.equal(ours, expected)


def test_the_seed_alone_decides(smooth):
    first, second, third = build(), build(), build()
    images = smooth(16, 32, 32)
    reports = [fit(first, images, seed=3), fit(second, images, seed=3), fit(third, images, seed=4)]
    torch.rand(3)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert reports[0] == reports[1]
    assert not torch.equal(first.level(2).codebook, third.level(2).codebook)


@pytest.fixture(scope="module")
def fitted_to_every_cell(smooth):
    """A quantizer without composition, and the reports of its fit."""
    quantizer = build("none")
    return quantizer, fit(quantizer, smooth(24), vectors_per_code=10_000)


def test_reports_tell_what_each_level_explains(fitted_to_every_cell, smooth):
    quantizer, reports = fitted_to_every_cell
    images = smooth(24)
    assert [r.level for r in reports] == [0, 1, 2]
    assert [r.vectors for r in reports] == [24 * 4, 24 * 16, 24 * 64]  # every cell, where fewer come than are wanted
    codes = quantizer.codes(quantizer.encode(ToyBackbone()(images)))
    for report, scale, linear_reconstruction in zip(
        reports, (4, 2, 1), quantizer.linear_reconstructions(codes), strict=True
    ):
        target = F.avg_pool2d(images, scale)
        patches = F.pixel_unshuffle(target, 8)
        total = (patches - patches.mean((0, 2, 3), keepdim=True)).square().sum()
        assert report.pixels_explained == pytest.approx(
            1 - float((linear_reconstruction - target).square().sum() / total), abs=1e-3
        )


@pytest.mark.parametrize("vectors_per_code", [1])
def test_no_more_cells_are_kept_than_asked_for(vectors_per_code, smooth):
    reports = fit(build(sizes=(12, 24, 48)), smooth(24), vectors_per_code=vectors_per_code)
    assert [r.vectors for r in reports] == [12 * vectors_per_code, 24 * vectors_per_code, 48 * vectors_per_code]


def test_projections_have_unit_scale_and_codes_lie_among_them(fitted_to_every_cell, smooth):
    quantizer, _ = fitted_to_every_cell
    for projected, index in zip(quantizer.encode_continuous(ToyBackbone()(smooth(24))), range(3), strict=True):
        assert float(projected.square().mean()) == pytest.approx(1, rel=0.01)
        assert float(projected.mean((0, 2, 3)).abs().max()) < 0.01
        assert quantizer.level(index).codebook.abs().max() <= projected.abs().max()


def test_a_semantic_weight_moves_what_codes_explain_from_pixels_to_semantics(smooth):
    images, level = smooth(32), LevelConfig(stride=32, maps=(0, 1), codebook_size=12, dim=8)
    fine = LevelConfig(stride=8, maps=(3,), codebook_size=4, dim=2)  # patches of the finest level are few numbers
    levels = [(dataclasses.replace(level, semantic_weight=weight), fine) for weight in (0.0, 0.5, 1.0)]
    reports = [fit(quantizer_of(each, "none"), images)[0] for each in levels]
    pixels, semantics = [r.pixels_explained for r in reports], [r.semantics_explained for r in reports]
    assert pixels[0] > pixels[2] + 0.05
    assert semantics[2] > semantics[0] + 0.05
    assert pixels == sorted(pixels, reverse=True)
    assert semantics == sorted(semantics)


@pytest.mark.parametrize("composition", ["bottom_up", "none"])
def test_levels_that_stand_for_the_whole_count_by_the_semantics_they_explain(composition, smooth):
    quantizer = build(composition, semantic_weight=0.5)
    reports = fit(quantizer, smooth(24))
    weights = torch.stack([quantizer.level(i).text_weight for i in range(3)])
    wanted = torch.tensor([max(r.semantics_explained, 1e-3) for r in reports])
    torch.testing.assert_close(weights, wanted / wanted.sum())


@pytest.mark.slow
def test_residual_levels_come_nearer_to_the_dense_features_one_by_one(smooth):
    images, held_out = smooth(32), ToyBackbone()(smooth(8, seed=5), with_dense=True)
    errors = {}
    for composition in ("residual", "none"):
        levels = [
            LevelConfig(stride=s, maps=m, codebook_size=24, dim=6, semantic_weight=0.7)
            for s, m in ((32, (0,)), (32, (0,)), (16, (0, 1)))
        ]
        quantizer = quantizer_of(levels, composition)
        fit(quantizer, images)
        ids = quantizer.encode(held_out)
        found = [gather_rows(quantizer.weighted_text_embeddings(), ids[:n]) for n in (1, 2, 3)]
        errors[composition] = [
            float((text - semantic_target(held_out, text.shape[-2:])).square().sum(1).mean()) for text in found
        ]
        weights = [float(quantizer.level(i).text_weight) for i in range(3)]
        assert (weights == [1, 1, 1]) == (composition == "residual")
    assert errors["residual"] == sorted(errors["residual"], reverse=True)
    assert errors["residual"][2] < 0.9 * min(errors["residual"][0], errors["none"][2])


def test_an_image_embedding_from_tokens_is_the_best_linear_guess_of_the_backbones_own(smooth):
    images, backbone = smooth(48), ToyBackbone()
    level = LevelConfig(stride=16, maps=(1,), codebook_size=12, dim=4, semantic_weight=0.5)
    quantizer = build_quantizer(
        QuantizerConfig(levels=(level,)),
        channels=backbone.channels,
        strides=backbone.strides,
        embedding_dim=backbone.embedding_dim,
    )
    fit(quantizer, images)
    features = backbone(images, with_dense=True)
    ids, wanted = quantizer.encode(features), F.normalize(features.embedding, dim=1)
    places = quantizer.weighted_text_embeddings()[0][ids[0]].mean((1, 2))
    mapped = places @ quantizer.to_embedding.weight.T + quantizer.to_embedding.bias
    slow = ridge(places, wanted, share=EMBEDDING_RIDGE)
    torch.testing.assert_close(mapped, places @ slow.weight + slow.bias, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(quantizer.embedding(ids), F.normalize(mapped, dim=1), rtol=1e-3, atol=1e-4)
    errors = [float((guess - wanted).square().sum(1).mean()) for guess in (mapped, places)]
    assert errors[0] < 0.8 * errors[1]


def test_a_level_that_sees_the_dense_map_follows_semantics_that_its_maps_do_not_give(smooth):
    shares = []
    for reads_dense in (False, True):
        level = LevelConfig(stride=32, maps=(3,), codebook_size=24, dim=8, semantic_weight=1.0, reads_dense=reads_dense)
        shares.append(fit(quantizer_of([level]), smooth(48))[0].semantics_explained)
    assert shares[1] > shares[0] + 0.02


def test_read_outs_give_the_mean_of_what_each_code_stands_for():
    level = build().level(0)
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(6, 8, generator=generator)
    ids = torch.randint(0, 6, (600,), generator=generator)
    pixels, semantics = torch.randn(6, 192, generator=generator)[ids], torch.randn(6, 16, generator=generator)[ids]
    noise = torch.randn(600, 192, generator=generator)
    with torch.no_grad():
        shares = fit_read_outs(level, codebook[ids], pixels + noise, semantics)
    pixels_of = codebook @ level.pixel_readout.weight.T + level.pixel_readout.bias
    for code in range(6):  # six codes in eight dimensions: a linear read-out can give each its own mean
        torch.testing.assert_close(pixels_of[code], (pixels + noise)[ids == code].mean(0), rtol=0, atol=0.02)
    assert shares[1] == pytest.approx(1, abs=1e-3)
    assert 0.3 < shares[0] < 0.7


def test_the_source_is_read_once(smooth):
    backbone, images = ToyBackbone(), smooth(16)
    batches = [(backbone(images, with_dense=True), images)]
    once, again = build(), build()
    source = iter(batches)
    fit_quantizer(once, lambda: source)
    fit_quantizer(again, lambda: batches)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), again.state_dict().values(), strict=True))


def test_no_images_are_an_error():
    with pytest.raises(DataError, match="expected at least one batch of images for level 0, got none"):
        fit_quantizer(build(), list)


@pytest.mark.parametrize(("composition", "level", "got", "enough"), [("residual", 0, 8, 50), ("bottom_up", 2, 128, 4)])
def test_fewer_cells_than_codes_are_an_error_that_says_how_many_images_do(composition, level, got, enough, smooth):
    facts = f"at least 200 cells for level {level}, got {got} in 2 images .* at least {enough} of that size"
    with pytest.raises(TooFewCellsError, match=facts):
        fit(build(composition, sizes=(200, 200, 200)), smooth(2))


def test_images_that_are_all_alike_are_an_error():
    with pytest.raises(DataError, match="12 different cells .* level 0, got 1 in 64"):
        fit(build(), torch.full((16, 3, 64, 64), 0.5))


def test_features_without_semantics_are_an_error(smooth):
    images = smooth(8)
    with pytest.raises(DataError, match="got neither"):
        fit_quantizer(build(), lambda: [(ToyBackbone()(images), images)])


def test_semantics_is_a_unit_map_on_the_levels_grid():
    dense = torch.randn(2, 5, 2, 3, generator=torch.Generator().manual_seed(0)) * 9
    features = FeaturePyramid(maps=(torch.zeros(2, 1, 2, 3),), strides=(32,), dense=dense)
    same = semantic_target(features, (2, 3))
    torch.testing.assert_close(same, F.normalize(dense, dim=1))
    finer = semantic_target(features, (4, 6))
    torch.testing.assert_close(finer.norm(dim=1), torch.ones(2, 4, 6))
    torch.testing.assert_close(finer[:, :, 0, 0], F.normalize(dense[:, :, 0, 0], dim=1))


def test_a_backbone_without_a_dense_map_gives_its_embedding_everywhere(smooth):
    embedding = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    features = FeaturePyramid(maps=(torch.zeros(2, 1, 2, 3),), strides=(32,), embedding=embedding)
    semantics = semantic_target(features, (4, 6))
    assert torch.equal(semantics, F.normalize(embedding, dim=1)[:, :, None, None].expand(2, 5, 4, 6))

    def samples():
        for batch in smooth(24).split(8):
            full = ToyBackbone()(batch, with_dense=True)
            yield FeaturePyramid(maps=full.maps, strides=full.strides, embedding=full.embedding), batch

    quantizer = build(semantic_weight=0.5)
    assert fit_quantizer(quantizer, samples)[0].semantics_explained > 0


@pytest.mark.parametrize("cut", [1000, 130, 7])
def test_the_sample_of_cells_is_the_one_with_the_smallest_keys(cut):
    rows, cells = torch.arange(1000.0)[:, None], _Cells(50, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    keys = torch.cat([torch.rand(len(part), generator=generator) for part in rows.split(cut)])
    for part in rows.split(cut):
        cells.add(part, part * 2)
        assert sum(len(part[0]) for part in cells.parts) <= 50 * 1.25 + cut
    kept, doubled = cells.trim()
    assert torch.equal(kept, rows[keys.argsort()[:50]])
    assert torch.equal(doubled, kept * 2)


def test_the_sample_is_even_over_the_stream():
    counts = torch.zeros(10)
    for seed in range(60):
        cells = _Cells(20, torch.Generator().manual_seed(seed))
        for part in torch.arange(1000).split(90):
            cells.add(part)
        counts += torch.bincount(cells.trim()[0] // 100, minlength=10)
    assert counts.sum() == 60 * 20
    assert (counts - 120).abs().max() < 40  # four standard deviations of a binomial draw


@pytest.mark.parametrize(
    "codebook",
    [
        {"codebook_size": 48, "dim": 8},
        pytest.param({"codebook_size": 48, "dim": 3, "fsq": (4, 4, 3)}, marks=pytest.mark.slow),
    ],
)
def test_inputs_too_wide_for_memory_are_read_again_as_projections(codebook, monkeypatch, smooth):
    levels = [
        LevelConfig(stride=32, maps=(0,), codebook_size=12, dim=4),
        LevelConfig(stride=8, maps=(0, 1), **codebook),
    ]
    whole, quantizer, images = quantizer_of(levels, "none"), quantizer_of(levels, "none"), smooth(32)
    fit(whole, images)
    monkeypatch.setattr(sampling, "MAX_SAMPLE_FLOATS", 60_000)
    reports = fit(quantizer, images)
    fine = quantizer.level(1)
    # all 128 cells of the coarse level have room; of the fine one's, 73 and 270 projections
    assert 60_000 // (fine.adapter.in_features + 192 + 16) == 73
    assert [r.vectors for r in reports] == [128, 60_000 // (fine.dim + 192 + 16)]
    for name, tensor in whole.level(0).state_dict().items():
        if name != "text_weight":  # it depends on all levels
            assert torch.equal(quantizer.level(0).state_dict()[name], tensor), name


def test_a_second_reading_makes_a_better_codebook_than_the_cells_that_there_was_room_for(monkeypatch, smooth):
    images, held_out, backbone = smooth(32), smooth(8, seed=9), ToyBackbone()
    quantizer = quantizer_of([LevelConfig(stride=8, maps=(0, 1, 2), codebook_size=100, dim=4)])
    wide = quantizer.level(0).adapter.in_features + 192 + 16
    monkeypatch.setattr(sampling, "MAX_SAMPLE_FLOATS", 110 * wide)
    assert fit(quantizer, images)[0].vectors == 110 * wide // 212
    level = quantizer.level(0)

    def projections(pictures):
        return level.project(quantizer.level_input(0, backbone(pictures), {})).permute(0, 2, 3, 1).flatten(0, 2)

    first_cells = projections(images)[torch.randperm(32 * 64, generator=torch.Generator().manual_seed(0))[:110]]
    few = kmeans(first_cells, 100, generator=torch.Generator().manual_seed(0))
    vectors = projections(held_out)
    errors = [
        (vectors - entries[nearest(vectors, entries)]).square().sum(1).mean() for entries in (few, level.codebook)
    ]
    assert errors[1] < 0.9 * errors[0]

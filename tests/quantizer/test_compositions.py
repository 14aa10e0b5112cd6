"""What levels read of each other, and how pixels and text embeddings add up over levels."""

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.backbones.features import enlarge
from pyramid_tokenizer.config.models import LevelConfig, QuantizerConfig
from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.fit.levels import fit_quantizer
from pyramid_tokenizer.quantizer.nearest import gather_rows
from pyramid_tokenizer.quantizer.regrid import join_parts
from tests.quantizer.cases import COMPOSITIONS, encode_slowly, features_of, fitted, pictures


def test_a_linear_reconstruction_is_the_coarser_one_enlarged_plus_what_the_level_paints(case):
    quantizer, features = case
    codes = quantizer.codes(quantizer.encode(features))
    linear_reconstructions = quantizer.linear_reconstructions(codes)
    for index, picture in enumerate(linear_reconstructions):
        expected = quantizer.level(index).pixels_of(codes[index])
        if quantizer.composition.name == "residual" and index:
            ratio = quantizer.strides[index - 1] // quantizer.strides[index]
            expected = expected + enlarge(linear_reconstructions[index - 1], ratio)
        assert torch.equal(picture, expected)


def test_levels_without_composition_take_the_nearest_entry_of_their_own_projection():
    quantizer, features = fitted("none"), features_of()
    for index, (ids, x) in enumerate(
        zip(quantizer.encode(features), quantizer.encode_continuous(features), strict=True)
    ):
        distances = (x[:, None] - quantizer.level(index).codebook[None, :, :, None, None]).square().sum(2)
        assert torch.equal(ids, distances.argmin(1))


@pytest.mark.parametrize(
    ("composition", "order"), [("residual", [0, 1, 2]), ("none", [0, 1, 2]), ("bottom_up", [2, 1, 0])]
)
def test_levels_are_computed_in_the_order_of_what_they_see(composition, order):
    quantizer, features = fitted(composition), features_of()
    assert quantizer.order == order
    ids, _, inputs = encode_slowly(quantizer, features)
    for index, x in inputs.items():
        assert join_parts(x).shape[1] == quantizer.level(index).adapter.in_features
    assert all(torch.equal(ids[i], found) for i, found in enumerate(quantizer.encode(features)))


def test_the_input_of_a_level_is_what_it_reads_of_the_backbone_then_of_other_levels(case):
    quantizer, features = case
    _, codes, inputs = encode_slowly(quantizer, features)
    for index, x in inputs.items():
        own = join_parts(quantizer.reads[index].of(features))
        context = [part.on_grid() for part in quantizer.composition.context(quantizer, index, codes)]
        assert torch.equal(join_parts(x), torch.cat([own, *context], 1))
        assert torch.equal(
            join_parts(quantizer.level_input(index, features, codes)), join_parts(x)
        )  # pure: again the same


def test_a_residual_level_reads_the_coarser_levels_image_and_codes():
    quantizer, features = fitted("recipe"), features_of()
    _, codes, _ = encode_slowly(quantizer, features)
    assert quantizer.composition.context(quantizer, 0, codes) == []
    for index in (1, 2):
        coarser = [codes[i] for i in range(index)]
        image, *read = [part.on_grid() for part in quantizer.composition.context(quantizer, index, codes)]
        expected = enlarge(quantizer.linear_reconstructions(coarser)[-1], 2)
        torch.testing.assert_close(image, F.pixel_unshuffle(expected, 8), rtol=0, atol=1e-6)
        for i, own in enumerate(read):
            repeats = 2 ** (index - i)
            assert torch.equal(own, coarser[i].repeat_interleave(repeats, 2).repeat_interleave(repeats, 3))


def test_a_bottom_up_level_reads_the_finer_levels_pooled_codes():
    quantizer, features = fitted("bottom_up"), features_of()
    _, codes, _ = encode_slowly(quantizer, features)
    assert quantizer.composition.context(quantizer, 2, codes) == []
    for index in (0, 1):
        (read,) = quantizer.composition.context(quantizer, index, codes)
        assert torch.equal(read.on_grid(), F.avg_pool2d(codes[index + 1], 2))


def test_only_levels_that_read_the_dense_features_need_them():
    quantizer, features = fitted("recipe"), features_of()
    assert quantizer.reads_dense
    assert [read.reads_dense for read in quantizer.reads] == [True, True, False]
    semantic, last = quantizer.reads[0].of(features)[-1], quantizer.reads[2].of(features)
    torch.testing.assert_close(semantic.on_grid().norm(dim=1), torch.ones(3, 3, 3))
    assert len(last) == len(quantizer.reads[2].maps)
    assert not fitted("none").reads_dense


def test_text_embeddings_of_residual_levels_add_up_over_levels_and_those_of_others_stand_alone(case):
    quantizer, features = case
    ids = quantizer.encode(features)
    maps = quantizer.text_embedding_maps(quantizer.codes(ids))
    rows = quantizer.text_embeddings()
    for index, found in enumerate(maps):
        first = 0 if quantizer.composition.name == "residual" else index
        expected = gather_rows(rows[first : index + 1], ids[first : index + 1])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_one_level_alone_is_a_pyramid_for_every_composition():
    for composition in COMPOSITIONS:
        level = LevelConfig(stride=8, maps=(2,), codebook_size=16, dim=4)
        quantizer = build_quantizer(
            QuantizerConfig(levels=(level,), composition=composition),
            channels=(32, 24, 16, 8),
            strides=(32, 16, 8, 4),
            embedding_dim=16,
        )
        images = pictures(2)
        fit_quantizer(quantizer, lambda: [(features_of(count=2, seed=0), images)], iterations=2)  # noqa: B023
        assert quantizer.linear_reconstruction(quantizer.codes(quantizer.encode(features_of()))).shape == (3, 3, 96, 96)


def test_the_summed_text_embeddings_of_codes_are_those_that_ids_look_up(case):
    quantizer, features = case
    ids = quantizer.encode(features)
    codes = quantizer.codes(ids)
    for n in range(1, len(ids) + 1):
        found = gather_rows(quantizer.weighted_text_embeddings(), ids[:n])
        torch.testing.assert_close(quantizer.summed_text_embeddings(codes[:n]), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_no_gradient_flows_from_a_level_back_to_the_codes_of_others(composition):
    quantizer, features = fitted(composition), features_of()
    codes = dict(enumerate(code.clone().requires_grad_() for code in quantizer.codes(quantizer.encode(features))))
    for index in range(len(quantizer.levels)):
        assert not join_parts(quantizer.level_input(index, features, codes)).requires_grad

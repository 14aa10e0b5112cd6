"""The image tokens: residual codes of image embeddings, and what embeddings of tokens are with them."""

import copy
import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.errors import BackboneError, CheckpointError, ConfigError
from pyramid_tokenizer.quantizer.fit.image_codes import fit_embedding, fit_image_codes
from pyramid_tokenizer.quantizer.image_codes import ImageQuantizer
from tests.quantizer.cases import backbone_of, config_of, features_of, fitted, pictures


def embeddings(count, dim=6, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def fitted_image(sizes=(8, 8, 4), count=64):
    image = ImageQuantizer(sizes, embedding_dim=6)
    fit_image_codes(image, F.normalize(embeddings(count), dim=1), 8, torch.Generator().manual_seed(0))
    return image


def test_each_code_is_the_nearest_to_what_the_ones_before_it_leave():
    image, rows = fitted_image(), embeddings(20, seed=1) * torch.rand(20, 1) * 30
    ids, codes = image.encode(rows), image.codes(image.encode(rows))
    for row, own, code in zip(F.normalize(rows, dim=1), ids, codes, strict=True):
        rest = row
        for number, codebook in enumerate(image.codebooks):
            assert int(own[number]) == int((codebook - rest).square().sum(1).argmin())
            rest = rest - codebook[own[number]]
        torch.testing.assert_close(code, row - rest, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.cat([image.encode(row[None]) for row in rows]), ids)  # whatever batch they are in


def test_every_codebook_is_fitted_to_the_rest_and_leaves_less_of_it():
    rows = F.normalize(embeddings(64), dim=1)
    images = [fitted_image((8,) * count) for count in range(4)]
    left = [float((rows - image.codes(image.encode(rows))).square().sum()) for image in images]
    assert left[0] == pytest.approx(64)
    assert all(more < 0.8 * less for less, more in itertools.pairwise(left))


def test_codebooks_with_nothing_left_to_learn_are_zero_and_add_nothing():
    image = fitted_image((8, 8, 8), count=8)  # the first one has an entry for each image
    assert image.codebooks[0].any() and not image.codebooks[2].any()
    ids = image.encode(embeddings(5, seed=2))
    torch.testing.assert_close(image.codes(ids), image.codebooks[0][ids[:, 0]], rtol=0, atol=1e-6)


def test_a_refit_starts_from_the_present_entries():
    image = fitted_image()
    again = copy.deepcopy(image)
    fit_image_codes(again, F.normalize(embeddings(64), dim=1), 0, torch.Generator().manual_seed(9), keep=True)
    assert all(torch.equal(a, b) for a, b in zip(image.codebooks, again.codebooks, strict=True))


def test_fewer_images_than_entries_are_entries_themselves_and_the_others_are_never_chosen():
    image, rows = ImageQuantizer((8, 4), embedding_dim=6), F.normalize(embeddings(5), dim=1)
    fit_image_codes(image, rows, 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(image.codes(image.encode(rows)), rows)
    assert sorted(image.encode(rows)[:, 0].tolist()) == [0, 1, 2, 3, 4]
    assert int(image.encode(embeddings(99, seed=3))[:, 0].max()) < 5


def test_entries_of_many_dimensions_keep_to_the_leading_directions_and_suit_other_images_better(monkeypatch):
    rows = F.normalize(embeddings(800, dim=96) / torch.arange(1, 97).sqrt(), dim=1)
    seen, new = rows[:400], rows[400:]

    def fitted_in(directions):
        monkeypatch.setattr(f"{fit_image_codes.__module__}.DIRECTIONS", directions)
        image = ImageQuantizer((64, 64, 64), embedding_dim=96)
        fit_image_codes(image, seen, 8, torch.Generator().manual_seed(0))
        left = (new - image.codes(image.encode(new))).square().sum()
        return [int(torch.linalg.matrix_rank(codebook)) for codebook in image.codebooks], float(left)

    few, all_of_them = fitted_in(32), fitted_in(96)
    assert few[0] == [32] * 3 and min(all_of_them[0]) > 50
    assert few[1] < 0.97 * all_of_them[1]


def test_what_cells_add_is_fitted_on_images_that_the_codebooks_have_not_seen():
    """An image token with an entry for each image leaves nothing of it, and the cells would be asked for nothing."""
    quantizer, backbone = copy.deepcopy(fitted()), backbone_of("halving")
    quantizer.image = ImageQuantizer((64,), embedding_dim=16)
    seen, new = (backbone(pictures(200, 64, 64, seed=seed), with_dense=True) for seed in (1, 2))
    fit_embedding(quantizer, lambda: [(seen, None)], 4, torch.Generator().manual_seed(0))
    image_ids, ids = quantizer.encode_image(new), quantizer.encode(new)
    own = F.normalize(new.embedding, dim=1)
    alone = F.normalize(quantizer.image.codes(image_ids), dim=1)
    together = quantizer.embedding(ids, image_ids=image_ids)
    assert (together * own).sum(1).mean() > (alone * own).sum(1).mean() + 0.005


def test_the_embedding_of_tokens_is_that_of_image_tokens_and_what_the_cells_add():
    quantizer, features = fitted(), features_of()
    ids, image_ids = quantizer.encode(features), quantizer.encode_image(features)
    added = quantizer.to_embedding(quantizer.mean_text_embedding(ids))
    expected = F.normalize(quantizer.image.codes(image_ids) + added, dim=1)
    torch.testing.assert_close(quantizer.embedding(ids, image_ids=image_ids), expected)
    seen = backbone_of("halving")(pictures(), with_dense=True)  # what it was fitted on
    own, ids = F.normalize(seen.embedding, dim=1), quantizer.encode(seen)
    near = quantizer.embedding(ids, image_ids=quantizer.encode_image(seen)) @ own.T  # (6, 6)
    assert near.diagonal().mean() > 0.8 and near.argmax(1).tolist() == list(range(6))


def test_without_image_tokens_there_are_no_ids_and_nothing_is_asked_of_the_features():
    image = ImageQuantizer((), embedding_dim=6)
    assert image.encode(embeddings(3)).shape == (3, 0)
    assert image.codes(image.encode(embeddings(3))).tolist() == [[0.0] * 6] * 3


def test_features_without_an_embedding_and_weights_that_are_no_numbers_are_named():
    quantizer, features = copy.deepcopy(fitted()), features_of()
    with pytest.raises(BackboneError, match="with_dense=True"):
        quantizer.encode_image(FeaturePyramid(maps=features.maps, strides=features.strides, dense=features.dense))
    quantizer.image.codebooks[1][2, 3] = float("nan")
    with pytest.raises(CheckpointError, match="codebook_1"):
        quantizer.encode_image(features)


@pytest.mark.parametrize("sizes", [(1,), (256, 0), [256], (2.0,), (True,), (4,) * 256])
def test_codebooks_that_cannot_be_are_refused(sizes):
    with pytest.raises(ConfigError, match="image_codebooks"):
        dataclasses.replace(config_of("residual", "euclidean", "halving"), image_codebooks=sizes)

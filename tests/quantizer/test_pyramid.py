"""One conformance suite for the recipe, every composition, kind of codebook and layout, then what single parts promise."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyramid_tokenizer.backbones.base import compute_fingerprint
from pyramid_tokenizer.backbones.features import FeaturePyramid
from pyramid_tokenizer.config.models import LevelConfig, QuantizerConfig
from pyramid_tokenizer.errors import ConfigError, ImageValueError, NotFittedError, TokenRangeError
from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.identity import identity_of
from tests.quantizer.cases import COMPOSITIONS, build, encode_slowly, features_of, fitted, one_image


def test_ids_have_the_levels_grids_and_stay_inside_their_codebooks(case):
    quantizer, features = case
    ids = quantizer.encode(features)
    assert [tuple(i.shape) for i in ids] == [(3, 96 // s, 96 // s) for s in quantizer.strides]
    for level_ids, size in zip(ids, quantizer.codebook_sizes, strict=True):
        assert level_ids.dtype == torch.int64
        assert int(level_ids.min()) >= 0
        assert int(level_ids.max()) < size
        assert len(level_ids.unique()) > 1


def test_codes_are_the_codebooks_rows(case):
    quantizer, features = case
    ids = quantizer.encode(features)
    for n in range(1, len(ids) + 1):
        codes = quantizer.codes(ids[:n])
        assert len(codes) == n
        for index, (level_ids, level_codes) in enumerate(zip(ids, codes, strict=False)):
            level = quantizer.level(index)
            assert torch.equal(level_codes.permute(0, 2, 3, 1), level.codebook[level_ids])
            if level.kind.unit_norm:
                torch.testing.assert_close(level_codes.norm(dim=1), torch.ones(level_ids.shape))


def test_ids_do_not_depend_on_the_batch(case):
    quantizer, features = case
    together = quantizer.encode(features)
    assert all(torch.equal(a, b) for a, b in zip(together, quantizer.encode(features), strict=True))
    for image in range(3):
        alone = one_image(features, image)
        for one, all_of_them in zip(quantizer.encode(alone), together, strict=True):
            assert torch.equal(one[0], all_of_them[image])


def test_the_input_of_a_level_is_projected_the_same_bit_for_bit_in_any_batch(case):
    quantizer, features = case
    together = quantizer.encode_continuous(features)
    alone = one_image(features, 1)
    for one, all_of_them in zip(quantizer.encode_continuous(alone), together, strict=True):
        assert torch.equal(one[0], all_of_them[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casting_changes_neither_the_quantizer_nor_ids(case, dtype):
    quantizer, features = case
    parent = nn.ModuleDict({"quantizer": copy.deepcopy(quantizer), "other": nn.Linear(2, 2)}).to(dtype)
    assert parent["other"].weight.dtype == dtype
    assert {t.dtype for t in parent["quantizer"].state_dict().values()} == {torch.float32}
    for name, tensor in parent["quantizer"].state_dict().items():
        assert torch.equal(tensor, quantizer.state_dict()[name])
    for a, b in zip(quantizer.encode(features), parent["quantizer"].encode(features), strict=True):
        assert torch.equal(a, b)


def test_autocast_changes_neither_ids_nor_the_linear_reconstruction_nor_the_embedding(case):
    quantizer, features = case
    ids = quantizer.encode(features)
    codes = quantizer.codes(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast_ids = quantizer.encode(features)
        cast_linear_reconstruction, cast_embedding = quantizer.linear_reconstruction(codes), quantizer.embedding(ids)
        cast_maps = quantizer.encode_continuous(features)
    assert all(torch.equal(a, b) for a, b in zip(ids, cast_ids, strict=True))
    assert torch.equal(cast_linear_reconstruction, quantizer.linear_reconstruction(codes))
    assert torch.equal(cast_embedding, quantizer.embedding(ids))
    assert all(torch.equal(a, b) for a, b in zip(cast_maps, quantizer.encode_continuous(features), strict=True))


def test_every_prefix_has_a_linear_reconstruction_at_full_size(case):
    quantizer, features = case
    codes = quantizer.codes(quantizer.encode(features))
    linear_reconstructions = quantizer.linear_reconstructions(codes)
    for n in range(1, len(quantizer.strides) + 1):
        linear_reconstruction = quantizer.linear_reconstruction(codes[:n])
        assert linear_reconstruction.shape == (3, 3, 96, 96)
        assert linear_reconstructions[n - 1].shape[-1] == 96 // quantizer.scale(n - 1)
        assert torch.equal(linear_reconstruction, quantizer.to_image_size(linear_reconstructions[n - 1], n - 1))
        assert torch.equal(
            quantizer.linear_reconstructions(codes[:n])[-1], linear_reconstructions[n - 1]
        )  # finer levels change nothing


def test_a_training_step_sees_the_same_projections_as_an_encode(case):
    quantizer, features = case
    trained = copy.deepcopy(quantizer).requires_grad_(True)
    _, _, inputs = encode_slowly(quantizer, features)
    for index, x in inputs.items():
        projected = trained.level(index).project(x)
        assert projected.requires_grad
        torch.testing.assert_close(projected.detach(), quantizer.level(index).project(x), rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(trained.level(index).project(x), projected)


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_tensors_that_determine_ids_change_the_digest_and_no_others_do(composition):
    quantizer = fitted(composition)
    base = digest(quantizer)
    for name in quantizer.state_dict():
        if name.startswith(("to_embedding", "image")):
            index, part = len(quantizer.levels), name
        else:
            index, part = int(name.split(".")[1]), name.split(".", 2)[2]
        first = quantizer.state_dict()[name].flatten()[:1]
        kept = first.clone()
        first.add_(1)
        changed = digest(quantizer)
        first.copy_(kept)
        seen_by_a_finer_level = quantizer.composition.name == "residual" and index + 1 < len(quantizer.levels)
        determines = part in ("mean", "std", "codebook", "adapter.weight", "adapter.bias") or part.startswith("image")
        determines |= part in ("pixel_readout.weight", "pixel_readout.bias") and seen_by_a_finer_level
        assert (changed != base) == determines, name


def digest(quantizer):
    facts, tensors = identity_of(quantizer)
    return compute_fingerprint(tensors, **facts)


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_what_is_outside_the_digest_does_not_change_ids(composition):
    quantizer, features = fitted(composition), features_of()
    changed = copy.deepcopy(quantizer)
    for name, tensor in changed.state_dict().items():
        if any(part in name for part in ("text_readout", "text_weight", "to_embedding")) or (
            "pixel_readout" in name and composition != "residual"
        ):
            tensor.add_(1)
    assert digest(changed) == digest(quantizer)
    assert all(torch.equal(a, b) for a, b in zip(changed.encode(features), quantizer.encode(features), strict=True))


def test_a_level_of_scalars_quantises_each_dimension_on_its_own():
    quantizer, features = fitted("none", "fsq"), features_of()
    for index, (ids, x) in enumerate(
        zip(quantizer.encode(features), quantizer.encode_continuous(features), strict=True)
    ):
        entries, level = quantizer.level(index).kind.entries, quantizer.level(index)
        assert float(x.abs().max()) <= 1
        for dim, count in enumerate(entries):
            steps = (x[:, dim] + 1) / 2 * (count - 1)  # entries lie at whole numbers
            place = ids // math.prod(entries[:dim]) % count
            assert float((steps - place).abs().max()) <= 0.5 + 1e-5
            codes = level.look_up(ids)[:, dim]
            torch.testing.assert_close(codes, place * 2 / (count - 1) - 1)


def test_an_image_embedding_is_the_mapped_mean_of_the_weighted_text_embeddings(case):
    quantizer, _ = case
    ids = quantizer.encode(case[1])
    for n in range(1, len(ids) + 1):
        total = torch.zeros(3, 16)
        for index in range(n):
            text_embeddings = quantizer.level(index).text_embeddings()
            for image, cells in enumerate(ids[index].flatten(1)):
                total[image] += float(quantizer.level(index).text_weight) * text_embeddings[cells].mean(0)
        mapped = total @ quantizer.to_embedding.weight.T + quantizer.to_embedding.bias
        embedding = quantizer.embedding(ids[:n])
        torch.testing.assert_close(embedding, F.normalize(mapped, dim=1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))


def test_before_a_fit_the_map_to_image_embeddings_changes_nothing():
    quantizer, rows = build("recipe"), torch.rand(3, 16)
    assert torch.equal(quantizer.to_embedding(rows), rows)


def test_text_embeddings_are_a_linear_map_of_the_codes_of_unit_norm_where_each_level_stands_for_the_whole(case):
    quantizer, _ = case
    for index, text_embeddings in enumerate(quantizer.text_embeddings()):
        level = quantizer.level(index)
        mapped = level.codebook @ level.text_readout.weight.T + level.text_readout.bias
        if quantizer.composition.name != "residual":
            mapped = F.normalize(mapped, dim=1)
        torch.testing.assert_close(text_embeddings, mapped)
        as_map = level.text_embeddings_of(level.codebook.T[None, :, :, None])[0, :, :, 0]
        torch.testing.assert_close(as_map.T, mapped)
        assert torch.equal(quantizer.weighted_text_embeddings()[index], level.text_weight * text_embeddings)


def test_an_embedding_of_no_levels_is_an_error():
    with pytest.raises(TokenRangeError, match="1 to 3 levels, got 0"):
        fitted().embedding(())


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_empty_codebooks_cannot_encode(composition):
    quantizer = build(composition, "euclidean", "halving")
    assert not quantizer.is_fitted
    for call in (
        lambda: quantizer.encode(features_of()),
        lambda: quantizer.encode_continuous(features_of()),
    ):
        with pytest.raises(NotFittedError, match="expected fitted codebooks, got empty ones: call fit"):
            call()


def test_one_empty_codebook_is_enough_to_be_unfitted():
    quantizer = copy.deepcopy(fitted())
    quantizer.level(1).codebook.zero_()
    with pytest.raises(NotFittedError):
        quantizer.encode(features_of())


def test_ids_that_do_not_belong_together_are_an_error():
    ids = fitted().encode(features_of())
    with pytest.raises(TokenRangeError, match=r"level 1 of shape \(3, 6, 6\), got \(3, 12, 12\)"):
        fitted().codes([ids[0], ids[2]])
    with pytest.raises(TokenRangeError, match=r"level 1 of shape \(3, 6, 6\), got \(1, 6, 6\)"):
        fitted().codes([ids[0], ids[1][:1]])


@pytest.mark.parametrize("levels", [0, 4])
def test_no_level_or_too_many_are_an_error(levels):
    ids = fitted().encode(features_of())
    with pytest.raises(TokenRangeError, match=f"expected ids of 1 to 3 levels, got {levels}"):
        fitted().codes([*ids, ids[2]][:levels])


def test_images_that_are_no_multiple_of_the_coarsest_stride_are_an_error():
    features = FeaturePyramid(maps=(torch.zeros(1, 8, 12, 10),), strides=(4,))
    with pytest.raises(ImageValueError, match="expected sides in multiples of 32 px, got 48 x 40: pad the batch"):
        fitted().encode(features)


@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_map_that_the_backbone_does_not_have_is_an_error(wrong):
    level = LevelConfig(stride=8, maps=(2, wrong), codebook_size=8, dim=4)
    with pytest.raises(ConfigError, match=rf"expected maps in \[0, 4\), got {wrong}: the backbone gives 4 maps"):
        build_quantizer(
            QuantizerConfig(levels=(level,)), channels=(32, 24, 16, 8), strides=(32, 16, 8, 4), embedding_dim=16
        )


@pytest.mark.parametrize("own", [8, 16])
def test_a_stride_that_does_not_fit_its_map_is_an_error(own):
    level = LevelConfig(stride=12, maps=(0,), codebook_size=8, dim=4)
    with pytest.raises(ConfigError, match=f"{own}, got 12"):
        build_quantizer(QuantizerConfig(levels=(level,)), channels=(5,), strides=(own,), embedding_dim=16)

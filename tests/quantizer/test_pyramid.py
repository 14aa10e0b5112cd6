"""One conformance suite for every composition, kind of codebook and layout of levels, then what single parts promise."""

import copy
import dataclasses
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyramid_tokenizer.backbones import ToyBackbone
from pyramid_tokenizer.backbones.base import compute_fingerprint
from pyramid_tokenizer.backbones.features import FeaturePyramid, enlarge
from pyramid_tokenizer.config.models import BackboneConfig, LevelConfig, QuantizerConfig
from pyramid_tokenizer.errors import ConfigError, ImageValueError, NotFittedError, TokenRangeError
from pyramid_tokenizer.quantizer.build import build_quantizer
from pyramid_tokenizer.quantizer.fit.levels import fit_quantizer
from pyramid_tokenizer.quantizer.nearest import gather_rows
from pyramid_tokenizer.quantizer.recipe import preset_config, preset_levels

COMPOSITIONS = ("residual", "bottom_up", "none")
KINDS = ("euclidean", "cosine", "fsq")
SIZES = (9, 14, 33)
TOY = BackboneConfig(kind="toy")
LAYOUTS = {  # (stride, maps) per level
    "halving": ((32, (0, 1)), (16, (1, 2)), (8, (2, 3))),
    "residual stage": ((16, (1,)), (16, (1,)), (8, (2, 3))),
    "ratio 4": ((32, (0, 2)), (8, (2,))),
    "coarser than its map by 3 and 8": ((24, (2,)), (8, (2, 3))),
    "finer than its map, as for a ViT": ((32, (0,)), (16, (1,)), (8, (2, 1))),
}


class PatchBackbone(nn.Module):
    """Stands in for a ViT: three maps of stride 16."""

    channels, strides, embedding_dim = (10, 12, 14), (16, 16, 16), 16

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.kernels = [torch.randn(c, 3, 16, 16, generator=generator) / 28 for c in (*self.channels, 16)]

    def forward(self, images, *, with_dense=False):
        maps = [F.conv2d(images - 0.5, kernel, stride=16) for kernel in self.kernels]
        bent = tuple(m + m * m.abs() for m in maps[:3])
        return FeaturePyramid(maps=bent, strides=self.strides, dense=maps[3], embedding=maps[3].mean((2, 3)))


def backbone_of(layout):
    return PatchBackbone() if "ViT" in layout else ToyBackbone()


def pictures(count=6, height=96, width=96, seed=0):
    coarse = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


def codebook_of(kind, index):
    if kind == "fsq":
        return {"fsq": ((3, 3), (7, 2), (11, 3))[index], "dim": 2}
    return {"distance": kind, "dim": 5 + index, "reads_dense": kind == "cosine" and index < 2}


def config_of(composition, kind, layout):
    levels = tuple(
        LevelConfig(stride=stride, maps=maps, codebook_size=SIZES[i], **codebook_of(kind, i))
        for i, (stride, maps) in enumerate(LAYOUTS[layout])
    )
    return QuantizerConfig(levels=levels, composition=composition)


def recipe_of(layout):
    """What `from_backbone` makes of the layout's backbone, with few entries."""
    backbone = backbone_of(layout)
    levels = preset_levels(channels=backbone.channels, strides=backbone.strides)
    levels = tuple(dataclasses.replace(level, codebook_size=size) for level, size in zip(levels, SIZES, strict=True))
    config = preset_config(TOY, channels=backbone.channels, strides=backbone.strides, levels=levels)
    return config.quantizer


def build(composition, kind="euclidean", layout="halving"):
    backbone = backbone_of(layout)
    config = recipe_of(layout) if composition == "recipe" else config_of(composition, kind, layout)
    return build_quantizer(
        config, channels=backbone.channels, strides=backbone.strides, embedding_dim=backbone.embedding_dim
    )


@functools.cache
def fitted(composition="residual", kind="euclidean", layout="halving"):
    """Fitted on six images; copy it before any change."""
    quantizer, backbone = build(composition, kind, layout), backbone_of(layout)
    images = pictures()
    fit_quantizer(quantizer, lambda: [(backbone(images, with_dense=True), images)], iterations=5)
    return quantizer


@functools.cache
def features_of(layout="halving", count=3, seed=7):
    return backbone_of(layout)(pictures(count, seed=seed), with_dense=True)


def one_image(features, index):
    rows = slice(index, index + 1)
    return FeaturePyramid(
        maps=tuple(m[rows] for m in features.maps), strides=features.strides, dense=features.dense[rows]
    )


def encode_slowly(quantizer, features):
    """Ids, codes and inputs by level, as `encode` is documented to work."""
    ids, codes, inputs = {}, {}, {}
    for index in quantizer.order:
        level = quantizer.level(index)
        inputs[index] = quantizer.level_input(index, features, codes)
        ids[index] = level.assign(level.project(inputs[index]))
        codes[index] = level.look_up(ids[index])
    return ids, codes, inputs


# the shipped recipe first; then every composition on every layout, the kinds of codebooks taking turns
CASES = [("recipe", "", "halving"), ("recipe", "", "finer than its map, as for a ViT")]
CASES += [
    (composition, KINDS[(i + j) % 3], layout)
    for i, composition in enumerate(COMPOSITIONS)
    for j, layout in enumerate(LAYOUTS)
]


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    composition, kind, layout = request.param
    return fitted(composition, kind, layout), features_of(layout)


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
    for n, stride in enumerate(quantizer.strides, start=1):
        linear_reconstruction = quantizer.linear_reconstruction(codes[:n])
        assert linear_reconstruction.shape == (3, 3, 96, 96)
        assert linear_reconstructions[n - 1].shape[-1] == 96 * quantizer.patch_px // stride
        assert torch.equal(linear_reconstruction, enlarge(linear_reconstructions[n - 1], stride // quantizer.patch_px))
        assert torch.equal(
            quantizer.linear_reconstructions(codes[:n])[-1], linear_reconstructions[n - 1]
        )  # finer levels change nothing


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
        if name.startswith("to_embedding"):
            index, part = len(quantizer.levels), name
        else:
            index, part = int(name.split(".")[1]), name.split(".", 2)[2]
        first = quantizer.state_dict()[name].flatten()[:1]
        kept = first.clone()
        first.add_(1)
        changed = digest(quantizer)
        first.copy_(kept)
        seen_by_a_finer_level = quantizer.composition.name == "residual" and index + 1 < len(quantizer.levels)
        determines = part in ("mean", "std", "codebook", "adapter.weight", "adapter.bias")
        determines |= part in ("pixel_readout.weight", "pixel_readout.bias") and seen_by_a_finer_level
        assert (changed != base) == determines, name


def digest(quantizer):
    facts, tensors = quantizer.identity()
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


def test_levels_without_composition_take_the_nearest_entry_of_their_own_projection():
    quantizer, features = fitted("none"), features_of()
    for index, (ids, x) in enumerate(
        zip(quantizer.encode(features), quantizer.encode_continuous(features), strict=True)
    ):
        distances = (x[:, None] - quantizer.level(index).codebook[None, :, :, None, None]).square().sum(2)
        assert torch.equal(ids, distances.argmin(1))


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


@pytest.mark.parametrize(
    ("composition", "order"), [("residual", [0, 1, 2]), ("none", [0, 1, 2]), ("bottom_up", [2, 1, 0])]
)
def test_levels_are_computed_in_the_order_of_what_they_see(composition, order):
    quantizer, features = fitted(composition), features_of()
    assert quantizer.order == order
    ids, _, inputs = encode_slowly(quantizer, features)
    for index, x in inputs.items():
        assert x.shape[1] == quantizer.level(index).adapter.in_features
    assert all(torch.equal(ids[i], found) for i, found in enumerate(quantizer.encode(features)))


def test_the_input_of_a_level_is_what_it_reads_of_the_backbone_then_of_other_levels(case):
    quantizer, features = case
    _, codes, inputs = encode_slowly(quantizer, features)
    for index, x in inputs.items():
        own = torch.cat(quantizer.reads[index].of(features), 1)
        context = quantizer.composition.context(quantizer, index, codes)
        assert torch.equal(x, torch.cat([own, *context], 1))
        assert torch.equal(quantizer.level_input(index, features, codes), x)  # pure: again the same


def test_a_residual_level_reads_the_coarser_levels_image_and_codes():
    quantizer, features = fitted("recipe"), features_of()
    _, codes, _ = encode_slowly(quantizer, features)
    assert quantizer.composition.context(quantizer, 0, codes) == []
    for index in (1, 2):
        coarser = [codes[i] for i in range(index)]
        image, *read = quantizer.composition.context(quantizer, index, codes)
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
        assert torch.equal(read, F.avg_pool2d(codes[index + 1], 2))


def test_only_levels_that_read_the_dense_features_need_them():
    quantizer, features = fitted("recipe"), features_of()
    assert quantizer.reads_dense
    assert [read.reads_dense for read in quantizer.reads] == [True, True, False]
    semantic, last = quantizer.reads[0].of(features)[-1], quantizer.reads[2].of(features)
    torch.testing.assert_close(semantic.norm(dim=1), torch.ones(3, 3, 3))
    assert len(last) == len(quantizer.reads[2].maps)
    assert not fitted("none").reads_dense


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


def test_text_embeddings_of_residual_levels_add_up_over_levels_and_those_of_others_stand_alone(case):
    quantizer, features = case
    ids = quantizer.encode(features)
    maps = quantizer.text_embedding_maps(quantizer.codes(ids))
    rows = quantizer.text_embeddings()
    for index, found in enumerate(maps):
        first = 0 if quantizer.composition.name == "residual" else index
        expected = gather_rows(rows[first : index + 1], ids[first : index + 1])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_no_gradient_flows_from_a_level_back_to_the_codes_of_others(composition):
    quantizer, features = fitted(composition), features_of()
    codes = dict(enumerate(code.clone().requires_grad_() for code in quantizer.codes(quantizer.encode(features))))
    for index in range(len(quantizer.levels)):
        assert not quantizer.level_input(index, features, codes).requires_grad


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

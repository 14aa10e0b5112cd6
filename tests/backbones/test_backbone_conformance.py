"""The laws of `Backbone`, for every family that there is an adapter for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyramid_tokenizer.backbones import load_backbone
from pyramid_tokenizer.errors import CapabilityError, ConfigError, ImageValueError

FAMILIES = {
    # family: (channels, strides, native size in px, number of blocks), coarse to fine
    "toy": ((32, 24, 16, 8), (32, 16, 8, 4), 64, 4),
    "vit": ((32, 32, 32, 32), (8, 8, 8, 8), 32, 5),
    "resnet": ((256, 128, 64, 32), (32, 16, 8, 4), 64, 5),
    "convnext": ((64, 48, 32, 24), (32, 16, 8, 4), 64, 4),
    "timm_vit": ((64, 64, 64, 64), (16, 16, 16, 16), 160, 6),
    "timm_clip": ((64, 64, 64, 64), (16, 16, 16, 16), 160, 6),
}
VIT = ("kk_gaussian", "vv", "kk", "qq", "v")
DENSE_READINGS = {
    "toy": ("projection",),
    "vit": VIT,
    "resnet": ("values",),
    "convnext": ("projection",),
    "timm_vit": ("values",),  # pools by attention, as SigLIP does
    "timm_clip": VIT,
}


# pooling by a token is told apart in test_dense.py; all laws of it are in the slow tier
@pytest.fixture(
    scope="module",
    params=[name if name != "timm_clip" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def backbone(family: str, load: Callable[..., Any]) -> Any:
    return load(family)


@pytest.fixture(scope="module")
def deep(family: str, load: Callable[..., Any]) -> Any:
    """The family's last two blocks."""
    return load(family, blocks=(-2, -1))


def pictures(count: int, height: int, width: int) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def outputs_of(features: Any) -> tuple[Tensor, ...]:
    return (*features.maps, features.embedding, features.dense)


def assert_same(one: Any, other: Any) -> None:
    assert one.strides == other.strides
    for left, right in zip(one.maps, other.maps, strict=True):
        assert torch.equal(left, right)
    assert torch.equal(one.embedding, other.embedding)
    assert torch.equal(one.dense, other.dense)


def test_channels_strides_and_dimension_are_those_of_the_family(family: str, backbone: Any) -> None:
    channels, strides, _, _ = FAMILIES[family]
    assert backbone.channels == channels
    assert backbone.strides == strides
    assert backbone.embedding_dim == {"toy": 16, "timm_vit": 64}.get(family, 24)


@pytest.mark.parametrize("cells", [None, (1, 1), (3, 2)])
def test_maps_have_the_promised_grid_at_native_and_other_sizes(family: str, backbone: Any, cells: Any) -> None:
    native = FAMILIES[family][2]
    height, width = (native, native) if cells is None else tuple(32 * n for n in cells)
    features = backbone(pictures(2, height, width), with_dense=True)
    assert features.image_size == (height, width)
    assert features.strides == backbone.strides
    for found, channels, stride in zip(features.maps, backbone.channels, backbone.strides, strict=True):
        assert found.shape == (2, channels, height // stride, width // stride)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
    assert features.embedding.shape == (2, backbone.embedding_dim)
    coarsest = backbone.strides[0]
    assert features.dense.shape == (2, backbone.embedding_dim, height // coarsest, width // coarsest)


def test_every_map_depends_on_the_image(backbone: Any) -> None:
    one, other = (backbone(images, with_dense=True) for images in pictures(2, 64, 64).split(1))
    for left, right in zip(outputs_of(one), outputs_of(other), strict=True):
        assert not torch.allclose(left, right, atol=1e-3)


def test_it_stays_frozen_after_train(backbone: Any) -> None:
    parent = nn.Sequential(backbone)
    parent.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_it_records_no_gradient_but_later_modules_may(backbone: Any) -> None:
    images = pictures(1, 32, 32).requires_grad_()
    features = backbone(images, with_dense=True)
    assert not any(m.requires_grad for m in outputs_of(features))
    scale = torch.ones(1, requires_grad=True)
    (features.maps[0] * scale).sum().backward()  # inference tensors would raise here
    assert scale.grad is not None
    assert torch.allclose(scale.grad, features.maps[0].sum())


def test_shallow_is_the_finest_map_of_forward(backbone: Any) -> None:
    images = pictures(2, 64, 32)
    torch.testing.assert_close(backbone.shallow(images), backbone(images).maps[-1], rtol=1e-6, atol=1e-6)


def test_a_gradient_flows_through_shallow_to_the_pixels_and_to_nothing_else(backbone: Any) -> None:
    images = (pictures(1, 64, 32) * 1.2 - 0.1).requires_grad_()  # decoded images overshoot
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shallow = backbone.shallow(images)
    assert shallow.dtype == torch.float32
    shallow.square().mean().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad.abs().sum(1) > 0).float().mean() > 0.98  # of all pixels; ReLUs may shut one out
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())


def test_the_gradient_of_shallow_is_its_slope(backbone: Any) -> None:
    images, direction = pictures(1, 32, 32), torch.randn(1, 3, 32, 32)
    step = 1e-2 * direction
    leaf = images.clone().requires_grad_()
    backbone.shallow(leaf).sum().backward()
    slope = (leaf.grad * step).sum()
    risen = (backbone.shallow(images + step).sum() - backbone.shallow(images - step).sum()) / 2
    torch.testing.assert_close(slope, risen, rtol=0.05, atol=1e-3)


def test_shallow_refuses_sizes_that_its_cells_do_not_tile(backbone: Any) -> None:
    side = 32 + backbone.strides[-1] // 2
    with pytest.raises(ImageValueError, match=rf"{backbone.strides[-1]} px.*{side}x32"):
        backbone.shallow(pictures(1, side, 32))


def test_the_blocks_read_are_told_shallow_to_deep(family: str, backbone: Any, deep: Any) -> None:
    count = FAMILIES[family][3]
    assert list(backbone.blocks) == sorted(set(backbone.blocks))
    assert len(backbone.blocks) == len(backbone.strides)
    assert deep.blocks == (count - 2, count - 1)


def test_the_same_image_gives_the_same_bits(backbone: Any) -> None:
    images = pictures(1, 64, 32)
    assert_same(backbone(images, with_dense=True), backbone(images, with_dense=True))


def test_asking_for_the_aligned_outputs_does_not_change_the_maps(backbone: Any) -> None:
    images = pictures(1, 64, 32)
    plain, with_dense = backbone(images), backbone(images, with_dense=True)
    assert plain.embedding is None
    assert plain.dense is None
    for left, right in zip(plain.maps, with_dense.maps, strict=True):
        assert torch.equal(left, right)


def test_a_batch_of_two_equals_two_singles(backbone: Any) -> None:
    images = pictures(2, 64, 32)
    both = backbone(images, with_dense=True)
    for row, image in enumerate(images.split(1)):
        single = backbone(image, with_dense=True)
        for left, right in zip(outputs_of(both), outputs_of(single), strict=True):
            torch.testing.assert_close(left[row : row + 1], right, rtol=1e-4, atol=1e-4)


def test_dense_readings_are_those_of_the_family_and_the_first_is_the_aligned_one(family: str, backbone: Any) -> None:
    images = pictures(1, 64, 64)
    assert backbone.dense_readings == DENSE_READINGS[family]
    assert backbone.has_dense
    with_dense = backbone(images, with_dense=True).dense
    assert torch.equal(backbone.dense(images), with_dense)
    maps = [backbone.dense(images, reading=reading) for reading in backbone.dense_readings]
    assert torch.equal(maps[0], with_dense)
    for index, found in enumerate(maps):
        assert found.shape == with_dense.shape
        assert not found.requires_grad
        assert not any(torch.equal(found, other) for other in maps[:index])


def test_a_dense_reading_that_is_not_defined_is_refused_and_says_which_are(backbone: Any) -> None:
    known = ", ".join(backbone.dense_readings)
    with pytest.raises(CapabilityError, match=rf"{known}.*'vw'"):
        backbone.dense(pictures(1, 64, 64), reading="vw")


def test_the_config_chooses_which_dense_reading_is_the_default(family: str, backbone: Any, load: Any) -> None:
    images = pictures(1, 64, 64)
    for reading in backbone.dense_readings[-1:]:
        chosen = load(family, dense_reading=reading)
        assert chosen.dense_readings[0] == reading
        assert sorted(chosen.dense_readings) == sorted(backbone.dense_readings)
        assert chosen.fingerprint == backbone.fingerprint
        assert torch.equal(chosen(images, with_dense=True).dense, backbone.dense(images, reading=reading))
    with pytest.raises(ConfigError, match=f"dense_reading .*{', '.join(backbone.dense_readings)}.*'vw'"):
        load(family, dense_reading="vw")


def test_bfloat16_weights_give_float32_maps_near_the_exact_ones(backbone: Any) -> None:
    images = pictures(1, 64, 64)
    exact = backbone(images, with_dense=True)
    rounded = copy.deepcopy(backbone).to(torch.bfloat16)(images, with_dense=True)
    for left, right in zip(outputs_of(exact), outputs_of(rounded), strict=True):
        assert right.dtype == torch.float32
        assert not torch.equal(left, right)
        assert (left - right).norm() < 0.05 * left.norm()


def test_autocast_around_it_changes_nothing(backbone: Any) -> None:
    images = pictures(1, 64, 64)
    exact, texts = backbone(images, with_dense=True), backbone.encode_text(["a cat"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(backbone(images, with_dense=True), exact)
        assert torch.equal(backbone.encode_text(["a cat"]), texts)


def test_half_precision_images_are_accepted(backbone: Any) -> None:
    images = pictures(1, 32, 32).half()
    for left, right in zip(backbone(images).maps, backbone(images.float()).maps, strict=True):
        assert torch.equal(left, right)


BREACHES = [
    (lambda x: x * 255, r"\[0, 1\].*divide"),
    (lambda x: x - 0.5, r"\[0, 1\]"),
    (lambda x: x.masked_fill(x > 0.9, float("nan")), "nan"),
    (lambda x: (x * 255).byte(), "float"),
    (lambda x: x[0], r"\(3, 64, 64\)"),
    (lambda x: x[:, :1], r"\(1, 1, 64, 64\)"),
    (lambda x: x[:0], r"\(0, 3, 64, 64\)"),
    (lambda x: x[:, :, :-4], r"multiples of \d+ px.*60x64"),
    (lambda x: x[:, :, :, :-4], r"multiples of \d+ px.*64x60"),
]


def test_a_batch_that_breaks_the_contract_is_refused(backbone: Any) -> None:
    for change, facts in BREACHES:
        with pytest.raises(ImageValueError, match=facts):
            backbone(change(pictures(1, 64, 64)))


def test_text_rows_are_unit_norm_and_do_not_depend_on_their_batch(backbone: Any) -> None:
    texts = ["a photo of a cat", "two dogs", "zebra"]
    rows = backbone.encode_text(texts)
    assert rows.shape == (3, backbone.embedding_dim)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(torch.cat([backbone.encode_text([text]) for text in texts]), rows)
    assert (rows @ rows.T - torch.eye(3)).abs().tril(-1).max() < 0.999
    assert backbone.encode_text([]).shape == (0, backbone.embedding_dim)


def test_one_bare_string_is_refused_rather_than_read_letter_by_letter(backbone: Any) -> None:
    with pytest.raises(RuntimeError, match=r"\['cat'\]"):
        backbone.encode_text("cat")


def test_save_then_load_gives_the_same_bits_and_fingerprint(family: str, backbone: Any, tmp_path: Path) -> None:
    images = pictures(1, 64, 32)
    backbone.save(tmp_path / "new" / "backbone")
    again = load_backbone(backbone.config, directory=tmp_path / "new" / "backbone")
    assert again.fingerprint == backbone.fingerprint
    assert_same(again(images, with_dense=True), backbone(images, with_dense=True))
    assert torch.equal(again.encode_text(["a cat"]), backbone.encode_text(["a cat"]))
    assert not list(tmp_path.rglob("*.part"))


def test_chosen_blocks_give_the_same_maps_as_among_all(family: str, load: Any) -> None:
    count = FAMILIES[family][3]
    images = pictures(1, 64, 64)
    everything = load(family, blocks=tuple(range(count)))
    chosen = load(family, blocks=(1, count - 1))
    assert chosen.channels == (everything.channels[0], everything.channels[-2])
    assert chosen.strides == (everything.strides[0], everything.strides[-2])
    for with_dense in (False, True):
        maps, chosen_maps = everything(images, with_dense=with_dense).maps, chosen(images, with_dense=with_dense).maps
        assert torch.equal(chosen_maps[0], maps[0])
        assert torch.equal(chosen_maps[1], maps[-2])


def test_leaving_out_the_last_blocks_does_not_change_the_aligned_outputs(family: str, backbone: Any, load: Any) -> None:
    images = pictures(1, 64, 64)
    exact, shallow = backbone(images, with_dense=True), load(family, blocks=(0,))(images, with_dense=True)
    assert torch.equal(shallow.embedding, exact.embedding)
    assert torch.equal(shallow.dense, exact.dense)


@pytest.mark.parametrize("family", ["toy", "resnet", "convnext"], scope="function")
def test_shallow_blocks_read_finer_sizes_but_the_aligned_outputs_need_the_whole_backbone(
    family: str, load: Any
) -> None:
    shallow = load(family, blocks=(0,))
    images = pictures(1, 64, 36)
    assert shallow(images).maps[0].shape[-2:] == (16, 9)
    with pytest.raises(ImageValueError, match="32 px.*64x36"):
        shallow(images, with_dense=True)


def test_the_fingerprint_tells_blocks_apart_and_sees_through_their_spelling(
    family: str, backbone: Any, deep: Any, load: Any
) -> None:
    count = FAMILIES[family][3]
    assert deep.fingerprint == load(family, blocks=(count - 2, count - 1)).fingerprint
    assert len({deep.fingerprint, backbone.fingerprint}) == 2
    assert int(backbone.fingerprint, 16) >= 0
    assert len(backbone.fingerprint) == 64


def test_blocks_outside_the_backbone_are_refused(family: str, load: Any) -> None:
    with pytest.raises(ConfigError, match=rf"below {FAMILIES[family][3]}\b"):
        load(family, blocks=(0, 99))

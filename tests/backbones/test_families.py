"""What each family does beyond the common laws, against slow references and open_clip's own forward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones import OpenClipBackbone
from pyramid_tokenizer.backbones.open_clip import find_reader, probe
from pyramid_tokenizer.backbones.reader import resample_positions
from pyramid_tokenizer.backbones.timm import _head
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import BackboneError
from tests.backbones.conftest import MODEL_CONFIGS, make_model

MEAN = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
STD = torch.tensor([0.3, 0.25, 0.2]).view(1, 3, 1, 1)
"""As the test checkpoints say."""

Load = Callable[..., Any]


def pictures(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


@torch.no_grad()
def run_visual(visual: Any, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """open_clip's own answer: all maps shallow to deep, and the embedding."""
    x = (images - MEAN) / STD
    return visual.forward_intermediates(x, stop_early=True, intermediates_only=True)["image_intermediates"], visual(x)


def assert_maps_equal(found: tuple[Tensor, ...], expected: list[Tensor]) -> None:
    """`found` runs coarse to fine, `expected` shallow to deep."""
    for left, right in zip(found, reversed(expected), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "size"),
    [("vit", 32), ("resnet", 64), ("fasternet", 96), ("convnext", 96), ("timm_vit", 160), ("timm_clip", 160)],
)
def test_maps_and_embedding_are_those_of_the_backbone_on_normalised_pixels(load: Load, family: str, size: int) -> None:
    backbone = load(family, blocks=tuple(range({"vit": 5, "resnet": 5, "timm_vit": 6, "timm_clip": 6}.get(family, 4))))
    images = pictures(size, size)
    maps, embedding = run_visual(backbone.model.visual, images)
    features = backbone(images, with_dense=True)
    assert_maps_equal(features.maps, maps)
    torch.testing.assert_close(features.embedding, embedding, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (16, 64), (72, 24), (8, 8)])
def test_a_vit_at_another_size_is_the_one_open_clip_builds_for_that_size(load: Load, height: int, width: int) -> None:
    from open_clip.model import CLIP, resize_pos_embed

    backbone = load("vit", blocks=(0, 1, 2, 3, 4))
    config = copy.deepcopy(MODEL_CONFIGS["vit"])
    config["vision_cfg"]["image_size"] = (height, width)
    resized = CLIP(**config).eval()
    state = dict(backbone.model.state_dict())
    state["visual.positional_embedding"] = _own_resize(state["visual.positional_embedding"], height // 8, width // 8)
    resized.load_state_dict(state)
    if height == width == 64:  # open_clip's own code resamples when the number of positions differs
        official = dict(backbone.model.state_dict())
        resize_pos_embed(official, resized)
        torch.testing.assert_close(official["visual.positional_embedding"], state["visual.positional_embedding"])
    maps, embedding = run_visual(resized.visual, pictures(height, width))
    features = backbone(pictures(height, width), with_dense=True)
    assert_maps_equal(features.maps, maps)
    torch.testing.assert_close(features.embedding, embedding, rtol=1e-5, atol=1e-5)


def _own_resize(positions: Tensor, height: int, width: int) -> Tensor:
    """One channel at a time, from the definition: the class token stays, the 4x4 grid of the rest is resampled."""
    channels = [
        F.interpolate(column.reshape(1, 1, 4, 4), size=(height, width), mode="bicubic", antialias=True).flatten()
        for column in positions[1:].T
    ]
    return torch.cat([positions[:1], torch.stack(channels, dim=1)])


@pytest.mark.parametrize(("height", "width"), [(32, 96)])
def test_a_timm_vit_at_another_size_is_the_one_timm_resizes(load: Load, height: int, width: int) -> None:
    resized = make_model(MODEL_CONFIGS["timm_vit"])
    resized.visual.trunk.set_input_size((height, width))
    maps, embedding = run_visual(resized.visual, pictures(height, width))
    features = load("timm_vit", blocks=tuple(range(6)))(pictures(height, width), with_dense=True)
    assert_maps_equal(features.maps, maps)
    torch.testing.assert_close(features.embedding, embedding, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_rotary_positions_follow_the_size_too_and_the_stored_ones_stay() -> None:
    """PE-Core has absolute and rotary positions; timm resizes both when it is told to for good."""
    model = make_model(pe_core := timm_config("vit_pe_core_tiny_patch16_384", timm_pool="map", timm_proj=""))
    model.visual.preprocess_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.25, 0.2)}
    backbone = OpenClipBackbone(model, config=BackboneConfig(blocks=(0, 11)), model_config={}, tokenizer=lambda: None)
    features = backbone(pictures(32, 64), with_dense=True)
    assert tuple(model.visual.trunk.rope.feat_shape) == (24, 24)
    resized = make_model(pe_core)
    resized.visual.trunk.set_input_size((32, 64))
    maps, embedding = run_visual(resized.visual, pictures(32, 64))
    assert_maps_equal(features.maps, [maps[0], maps[11]])
    torch.testing.assert_close(features.embedding, embedding, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 128)])
def test_a_resnet_embeds_any_size_by_attention_from_the_mean(load: Load, height: int, width: int) -> None:
    backbone = load("resnet")
    pool = backbone.model.visual.attnpool
    features = backbone(pictures(height, width), with_dense=True)
    last = features.maps[0]
    h, w = last.shape[-2:]
    positions = resample_positions(pool.positional_embedding, (2, 2), (h, w)) if (h, w) != (2, 2) else None
    positions = pool.positional_embedding if positions is None else positions
    for row in range(2):
        cells = last[row].flatten(1).T  # (h * w, C)
        tokens = torch.cat([cells.mean(0, keepdim=True), cells]) + positions
        query, keys, values = pool.q_proj(tokens[:1]), pool.k_proj(tokens), pool.v_proj(tokens)
        heads = []
        for q, k, v in zip(*(t.chunk(pool.num_heads, dim=1) for t in (query, keys, values)), strict=True):
            heads.append((q @ k.T / q.shape[1] ** 0.5).softmax(dim=1) @ v)
        expected = pool.c_proj(torch.cat(heads, dim=1))[0]
        torch.testing.assert_close(features.embedding[row], expected, rtol=1e-4, atol=1e-4)


def test_resampled_positions_keep_the_class_token_and_a_linear_ramp() -> None:
    ramp = torch.arange(8.0).expand(8, 8)
    positions = torch.cat([torch.tensor([[7.0, -7.0]]), torch.stack([ramp.flatten(), ramp.T.flatten()], dim=1)])
    resampled = resample_positions(positions, (8, 8), (8, 16))
    assert torch.equal(resampled[0], positions[0])
    across, down = resampled[1:].T.reshape(2, 8, 16)
    expected = torch.arange(16.0) / 2 - 0.25  # cell centres of a grid twice as fine
    torch.testing.assert_close(across[:, 4:-4], expected[4:-4].expand(8, 8))
    torch.testing.assert_close(down, torch.arange(8.0)[:, None].expand(8, 16))


@pytest.mark.parametrize("family", ["vit", "resnet", "timm_vit"])
def test_other_sizes_leave_the_stored_weights_alone(load: Load, family: str) -> None:
    backbone = load(family)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    native = pictures(160, 160) if family.startswith("timm") else pictures(32, 32)
    first = backbone(native, with_dense=True)
    backbone(pictures(64, 96), with_dense=True)
    after = backbone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(backbone(native, with_dense=True).embedding, first.embedding)


def test_a_convnext_reads_text_space_by_its_norm_and_projection_at_each_cell(load: Load) -> None:
    backbone = load("convnext")
    visual = backbone.model.visual
    features = backbone(pictures(64, 96), with_dense=True)
    norm, projection = visual.trunk.head.norm, visual.head.proj.weight
    expected = torch.empty(2, 24, 2, 3)
    for b in range(2):
        for y in range(2):
            for x in range(3):
                cell = features.maps[0][b, :, y, x]
                centred = (cell - cell.mean()) / (cell.var(unbiased=False) + norm.eps).sqrt()
                expected[b, :, y, x] = projection @ (centred * norm.weight + norm.bias)
    torch.testing.assert_close(features.dense, expected, rtol=1e-4, atol=1e-4)


def test_a_fasternet_reads_text_space_by_its_own_head_at_each_cell(load: Load) -> None:
    backbone = load("fasternet")
    trunk = backbone.model.visual.trunk
    features = backbone(pictures(32, 64), with_dense=True)
    expected = torch.empty(2, 24, 1, 2)
    for b in range(2):
        for x in range(2):
            hidden = trunk.act(trunk.conv_head.weight[:, :, 0, 0] @ features.maps[0][b, :, 0, x])
            expected[b, :, 0, x] = trunk.classifier.weight @ hidden + trunk.classifier.bias
    assert trunk.conv_head.bias is None
    torch.testing.assert_close(features.dense, expected, rtol=1e-4, atol=1e-4)


def test_a_fasternets_convolution_reads_pooled_images_alone_and_no_single_cells(load: Load) -> None:
    backbone = load("fasternet")
    read: list[tuple[int, ...]] = []
    conv = backbone.model.visual.trunk.conv_head
    hook = conv.register_forward_pre_hook(lambda _, args: read.append(tuple(args[0].shape)))
    backbone(torch.rand(2, 3, 64, 96), with_dense=True)
    hook.remove()
    assert read == [(2, conv.in_channels, 1, 1)]


def test_a_resnet_reads_text_space_by_value_and_output_projections_at_each_cell(load: Load) -> None:
    backbone = load("resnet")
    pool = backbone.model.visual.attnpool
    features = backbone(pictures(64, 32), with_dense=True)
    expected = torch.empty(2, 24, 2, 1)
    for b in range(2):
        for y in range(2):
            value = pool.v_proj.weight @ features.maps[0][b, :, y, 0] + pool.v_proj.bias
            expected[b, :, y, 0] = pool.c_proj.weight @ value + pool.c_proj.bias
    torch.testing.assert_close(features.dense, expected, rtol=1e-4, atol=1e-4)


def test_behind_a_mean_pool_a_flat_map_has_the_embedding_at_every_cell(load: Load) -> None:
    tower = find_reader(load("fasternet").model.visual)
    features = torch.randn(1, 320, 1, 1, generator=torch.Generator().manual_seed(0)).expand(1, 320, 3, 2)
    with torch.no_grad():
        dense, embedding = tower._head_per_cell(features), _head(tower._visual, features)
    torch.testing.assert_close(dense, embedding[:, :, None, None].expand(1, 24, 3, 2))


def timm_config(name: str, **options: Any) -> dict[str, Any]:
    config = copy.deepcopy(MODEL_CONFIGS["fasternet"])
    config["vision_cfg"] = {"timm_model_name": name, "timm_model_pretrained": False, "image_size": 64, **options}
    return config


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"timm_pool": "avg", "timm_proj": "mlp"}, ("projection",)),
        ({"timm_pool": "max", "timm_proj": "linear"}, ()),
        ({"timm_pool": "rot_attn", "timm_proj": ""}, ("values",)),
    ],
)
def test_the_pool_behind_convolutions_says_which_dense_features_there_are(
    options: dict[str, Any], expected: tuple[str, ...]
) -> None:
    config = timm_config("test_efficientnet", **options)
    with torch.no_grad():
        tower = find_reader(make_model(config).visual)
    assert tower.dense_readings == expected
    assert (tower.no_dense_reason == "") == bool(expected)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_other_conv_trunks_give_strides_4_to_32_and_dense_features_by_default(name: str) -> None:
    model = make_model(timm_config(name, timm_pool="avg", timm_proj="linear"))
    model.visual.preprocess_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.25, 0.2)}
    backbone = OpenClipBackbone(model, config=BackboneConfig(), model_config={}, tokenizer=lambda: None)
    assert backbone.strides == (32, 16, 8, 4)
    maps, embedding = run_visual(model.visual, pictures(64, 96))
    features = backbone(pictures(64, 96), with_dense=True)
    assert_maps_equal(features.maps, maps[1:])
    torch.testing.assert_close(features.embedding, embedding, rtol=1e-5, atol=1e-5)
    assert features.dense.shape == (2, 24, 2, 3)


@pytest.mark.parametrize(
    ("family", "last"),
    [
        ("vit", "transformer.resblocks.4"),
        ("resnet", "layer4"),
        ("convnext", "trunk.stages.3"),
        ("timm_vit", "trunk.blocks.5"),
    ],
)
def test_blocks_behind_the_last_one_asked_for_do_not_run(load: Load, family: str, last: str) -> None:
    backbone = load(family, blocks=(0, 1))
    runs: list[str] = []
    backbone.model.visual.get_submodule(last).register_forward_hook(lambda *_: runs.append(last))
    backbone(pictures(32, 32))
    assert runs == []
    backbone(pictures(32, 32), with_dense=True)
    assert runs == [last]


def test_a_backbone_of_an_unknown_family_is_refused_by_its_class() -> None:
    with pytest.raises(BackboneError, match="Linear"):
        find_reader(nn.Linear(1, 1))


def test_a_backbone_that_reads_one_size_only_is_refused() -> None:
    visual = make_model(timm_config("test_vit_relpos", timm_pool="avg", timm_proj="linear")).visual
    with torch.no_grad(), pytest.raises(BackboneError, match="any size"):
        probe(find_reader(visual), next(visual.parameters()))

"""The head of a backbone at every location: against formulas, against the pool itself, and against the embedding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyramid_tokenizer.backbones import OpenClipBackbone
from pyramid_tokenizer.backbones.dense import DENSE_READINGS
from pyramid_tokenizer.backbones.locations import PROJECTION, VALUES, open_clip_pool, timm_latent_pool
from pyramid_tokenizer.backbones.timm import timm_readings
from pyramid_tokenizer.backbones.vit import open_clip_readings
from pyramid_tokenizer.errors import CapabilityError
from tests.backbones.conftest import MODEL_CONFIGS, make_model
from tests.backbones.formulas import layer_norm, linear, make_timm, make_vit, pictures, wrap

SIGLIP = {"global_pool": "map", "class_token": False, "num_classes": 0, "depth": 2}
PE_CORE = {
    "kind": "Eva",
    "global_pool": "map",
    "attn_type": "rope",
    "use_pre_transformer_norm": True,
    "use_rot_pos_emb": True,
    "ref_feat_shape": (4, 4),
    "attn_pool_num_heads": 4,
    "depth": 2,
}
COCA = {"attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2}
POOLED: dict[str, Callable[[], OpenClipBackbone]] = {
    "SigLIP": lambda: make_timm(**SIGLIP),
    "PE-Core": lambda: make_timm(**PE_CORE),
    "PE-Core without class token": lambda: make_timm(class_token=False, **PE_CORE),
    "CoCa": lambda: make_vit(**COCA),
    "CoCa, mean of queries": lambda: make_vit(pool_type="avg", **COCA),
}
SINGLE: dict[str, Callable[[], OpenClipBackbone]] = {
    "open_clip, queries and keys with a norm": lambda: make_vit(qk_norm=True),
    "open_clip, one block": lambda: make_vit(layers=1, pool_type="avg"),
    "timm, one block": lambda: make_timm(depth=1, init_values=0.3),
    "Eva, one head of keys": lambda: make_timm(
        kind="Eva", global_pool="token", attn_type="rope", qkv_fused=False, num_kv_heads=1
    ),
}


def make_conv(pool: str, *, proj: str = "linear") -> OpenClipBackbone:
    """A tiny convolutional trunk of timm in front of a pool that open_clip names so."""
    config = copy.deepcopy(MODEL_CONFIGS["convnext"])
    options = {"timm_model_name": "test_efficientnet", "timm_pool": pool, "timm_proj": proj}
    config["vision_cfg"] = {**options, "timm_model_pretrained": False, "image_size": 64}
    return wrap(make_model(config))


def last_layer(visual: Any) -> nn.Module:
    """The layer whose tokens the head of a ViT reads."""
    return visual.trunk.norm if hasattr(visual, "trunk") else visual.transformer.resblocks[-1]


def patches_of(backbone: OpenClipBackbone, images: Tensor) -> Tensor:
    """(h * w, C) of the one image: the patches that the head of a ViT reads."""
    visual, seen = backbone.model.visual, []
    handle = last_layer(visual).register_forward_hook(lambda *args: seen.append(args[-1]))
    grid = backbone(images, with_dense=True).dense.shape[-2:]
    handle.remove()
    return seen[-1][0, -grid.numel() :]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def slow_latent_pool(pool: Any, token: Tensor) -> Tensor:
    """timm's `AttentionPoolLatent` of a single token (C,): its value, the output projection, the FFN."""
    value = linear(token, pool.kv.weight.chunk(2)[1], None if pool.kv.bias is None else pool.kv.bias.chunk(2)[1])
    if pool.mlp is None:
        return value
    x = linear(value, pool.proj.weight, pool.proj.bias)
    hidden = gelu(linear(layer_norm(x, pool.norm), pool.mlp.fc1.weight, pool.mlp.fc1.bias))
    return x + linear(hidden, pool.mlp.fc2.weight, pool.mlp.fc2.bias)


def slow_pooler(pool: Any, token: Tensor) -> Tensor:
    """open_clip's `AttentionalPooler` of a single token (C,)."""
    attention = pool.attn
    weight = attention.v_proj_weight if attention.in_proj_weight is None else attention.in_proj_weight.chunk(3)[2]
    value = linear(layer_norm(token, pool.ln_k), weight, attention.in_proj_bias.chunk(3)[2])
    return linear(value, attention.out_proj.weight, attention.out_proj.bias)


def slow_head(visual: Any, token: Tensor) -> Tensor:
    """(D,) of a token (C,) float64, from the formulas."""
    if not hasattr(visual, "trunk"):
        x = token if visual.attn_pool is None else slow_pooler(visual.attn_pool, token)
        return layer_norm(x, visual.ln_post) @ visual.proj.double()
    x = token if visual.trunk.attn_pool is None else slow_latent_pool(visual.trunk.attn_pool, token)
    x, last = layer_norm(x, visual.trunk.fc_norm), visual.trunk.head
    return x if isinstance(last, nn.Identity) else linear(x, last.weight, last.bias)


@pytest.mark.parametrize("name", [*POOLED, *SINGLE])
def test_every_location_of_a_vit_goes_through_the_head_alone(name: str) -> None:
    backbone, images = {**POOLED, **SINGLE}[name](), pictures(16, 24)
    assert backbone.dense_readings == (VALUES if name in POOLED else PROJECTION)
    found = backbone.dense(images)[0]
    patches = patches_of(backbone, images).double()
    expected = torch.zeros_like(found, dtype=torch.float64)
    for y in range(2):
        for x in range(3):
            expected[:, y, x] = slow_head(backbone.model.visual, patches[3 * y + x])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", POOLED)
@torch.no_grad()
def test_a_pool_gives_the_same_for_each_location_as_a_sequence_of_its_own(name: str) -> None:
    """The modules of open_clip and timm themselves, one location at a time."""
    backbone, images = POOLED[name](), pictures(16, 24)
    visual, found = backbone.model.visual, backbone.dense(images)[0]
    for place, patch in enumerate(patches_of(backbone, images)):
        sequence = patch[None, None]  # (1, 1, C)
        if hasattr(visual, "trunk"):
            expected = visual.head(visual.trunk.head(visual.trunk.fc_norm(visual.trunk.attn_pool(sequence))))
        else:
            expected = visual._pool(sequence)[0] @ visual.proj
        torch.testing.assert_close(found[:, place // 3, place % 3], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", POOLED)
def test_where_all_tokens_are_equal_every_location_has_the_embedding(name: str) -> None:
    backbone = POOLED[name]()
    last_layer(backbone.model.visual).register_forward_hook(lambda *args: args[-1][:, -1:].expand_as(args[-1]))
    features = backbone(pictures(16, 24), with_dense=True)
    torch.testing.assert_close(features.dense, features.embedding[:, :, None, None].expand(features.dense.shape))


@pytest.mark.parametrize("name", ["SigLIP", "PE-Core", "CoCa", "EVA02"])
def test_neither_the_blocks_that_are_read_nor_the_batch_matters_and_bfloat16_little(name: str) -> None:
    eva = {"kind": "Eva", "global_pool": "token", "qkv_fused": False, "use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}
    backbone = POOLED[name]() if name in POOLED else make_timm(**eva)
    images = pictures(16, 24, count=2)
    dense = backbone.dense(images)
    torch.testing.assert_close(
        torch.cat([backbone.dense(image) for image in images.split(1)]), dense, rtol=1e-4, atol=1e-5
    )
    assert torch.equal(wrap(backbone.model, blocks=(0,)).dense(images), dense)
    rounded = copy.deepcopy(backbone).to(torch.bfloat16).dense(images)
    assert not torch.equal(rounded, dense)
    assert (rounded - dense).norm() < 0.05 * dense.norm()


@pytest.mark.parametrize("name", ["SigLIP", "PE-Core without class token"])
def test_an_image_of_one_patch_has_its_embedding_there(name: str) -> None:
    features = POOLED[name]()(pictures(8, 8), with_dense=True)
    torch.testing.assert_close(features.dense[:, :, 0, 0], features.embedding)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"out_features": 0},
        {"qkv_bias": False, "latent_len": 3, "pool_type": "avg"},
        {"embed_dim": 12, "qk_norm": True},
    ],
)
@torch.no_grad()
def test_a_latent_pool_of_any_make_is_its_value_path(options: dict[str, Any]) -> None:
    from timm.layers import AttentionPoolLatent

    pool = AttentionPoolLatent(12, num_heads=3, norm_layer=nn.LayerNorm, **options).eval()
    tokens = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))
    found, alone = timm_latent_pool(pool, tokens), pool(tokens.reshape(8, 1, 12))
    torch.testing.assert_close(found.reshape(8, -1), alone)
    torch.testing.assert_close(
        found[1, 2].double(), slow_latent_pool(pool, tokens[1, 2].double()), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("width", [8, 12])
@torch.no_grad()
def test_an_attentional_pooler_of_any_width_is_its_value_path(width: int) -> None:
    """torch stores the projections of queries, keys and values together where both widths are the same."""
    from open_clip.transformer import AttentionalPooler

    pool = AttentionalPooler(8, width, n_head=2, n_queries=3).eval()
    pool.attn.in_proj_bias.copy_(torch.arange(24).sin())
    tokens = torch.randn(2, 4, width, generator=torch.Generator().manual_seed(0))
    found, alone = open_clip_pool(pool, tokens), pool(tokens.reshape(8, 1, width))
    for query in range(3):
        torch.testing.assert_close(found.reshape(8, 8), alone[:, query])
    torch.testing.assert_close(found[1, 2].double(), slow_pooler(pool, tokens[1, 2].double()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool_name", ["abs_attn", "rot_attn"])
def test_a_pool_behind_convolutions_gives_value_and_output_projections_of_each_cell(pool_name: str) -> None:
    backbone, seen = make_conv(pool_name), []
    visual = backbone.model.visual
    pool = visual.head.pool
    pool.register_forward_pre_hook(lambda _, args: seen.append(args[0].double()))
    features = backbone(pictures(64, 96), with_dense=True)
    assert backbone.dense_readings == VALUES
    expected = torch.zeros(1, 24, 2, 3, dtype=torch.float64)
    for y in range(2):
        for x in range(3):
            value = linear(seen[-1][0, :, y, x], pool.qkv.weight.chunk(3)[2], pool.qkv.bias.chunk(3)[2])
            out = linear(value, pool.proj.weight, pool.proj.bias)
            expected[0, :, y, x] = linear(out, visual.head.proj.weight, None)
    torch.testing.assert_close(features.dense.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool_name", ["abs_attn", "rot_attn"])
def test_a_flat_map_has_the_embedding_at_every_cell_where_the_pool_adds_no_positions(pool_name: str) -> None:
    backbone = make_conv(pool_name)
    visual = backbone.model.visual
    visual.trunk.bn2.register_forward_hook(lambda *args: args[-1][:, :, :1, :1].expand_as(args[-1]))
    if pool_name == "abs_attn":
        nn.init.zeros_(visual.head.pool.pos_embed)
    features = backbone(pictures(64, 96), with_dense=True)
    torch.testing.assert_close(features.dense, features.embedding[:, :, None, None].expand(features.dense.shape))


def test_a_backbone_without_dense_features_says_why_and_works_otherwise() -> None:
    backbone = make_conv("max")
    assert backbone.dense_readings == ()
    assert not backbone.has_dense
    features = backbone(pictures(64, 64), with_dense=True)
    assert features.dense is None
    assert features.embedding.shape == (1, 24)
    for reading in (None, "values"):
        with pytest.raises(CapabilityError, match="EfficientNet.*has_dense"):
            backbone.dense(pictures(64, 64), reading=reading)


@pytest.mark.parametrize(
    ("name", "options", "readings", "reason"),
    [
        ("test_vit", {"global_pool": "map"}, VALUES, ""),
        ("test_vit", {"global_pool": "prr"}, (), "AttentionPoolPrr"),
        ("test_vit", {"global_pool": "max"}, (), "pool 'max'"),
        ("test_vit", {"depth": 1}, PROJECTION, ""),
        ("eva02_tiny_patch14_224", {"depth": 2}, DENSE_READINGS, ""),
        ("vit_pe_core_tiny_patch16_384", {"depth": 2}, VALUES, ""),
        ("vit_base_resnet26d_224", {"depth": 2, "embed_dim": 24, "num_heads": 2}, DENSE_READINGS, ""),
        ("vit_base_patch16_siglip_gap_224", {"depth": 2, "embed_dim": 24, "num_heads": 2}, DENSE_READINGS, ""),
        ("vit_dpwee_patch16_reg1_gap_256", {"depth": 2}, PROJECTION, ""),
        ("deit_tiny_distilled_patch16_224", {"depth": 2}, (), "VisionTransformerDistilled"),
    ],
)
def test_the_readings_of_a_timm_vit_follow_its_pool_and_its_last_block(
    name: str, options: dict[str, Any], readings: tuple[str, ...], reason: str
) -> None:
    import timm

    with torch.device("meta"):
        trunk = timm.create_model(name, **options)
    found, why = timm_readings(SimpleNamespace(trunk=trunk, head=nn.Sequential()))
    assert found == readings
    assert reason in why if reason else why == ""


def test_two_poolers_that_give_many_vectors_have_no_dense_features() -> None:
    with torch.device("meta"):
        from open_clip.transformer import VisionTransformer

        visual = VisionTransformer(32, 8, 32, 2, 2, 4.0, attentional_pool="parallel", output_dim=32)
    readings, reason = open_clip_readings(visual)
    assert readings == ()
    assert "parallel" in reason

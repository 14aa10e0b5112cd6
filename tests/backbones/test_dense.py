"""Dense maps of plain ViTs against slow references from the formulas; those of other families are beside this file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyramid_tokenizer.backbones import ToyBackbone, describe_backbone, load_backbone, name_backbone
from pyramid_tokenizer.backbones.base import check_reading, order_readings
from pyramid_tokenizer.backbones.dense import DENSE_READINGS, attend, gaussian_window
from pyramid_tokenizer.backbones.last_block import open_clip_block, timm_block
from pyramid_tokenizer.config.models import BackboneConfig
from pyramid_tokenizer.errors import BackboneError
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from tests.backbones.formulas import (
    assert_every_reading_is_slow,
    layer_norm,
    linear,
    make_timm,
    make_vit,
    pictures,
    read_head,
    tokens_before,
)

BACKBONES: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer scale": {"ls_init_value": 0.3},
    "mean pool": {"pool_type": "avg"},
    "CLIPA": {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
}


TIMM_BACKBONES: dict[str, dict[str, Any]] = {
    "class token": {},
    "class token, registers, layer scale": {"reg_tokens": 2, "init_values": 0.3},
    "mean pool, no class token": {"class_token": False, "global_pool": "avg", "num_classes": 0, "proj": "linear"},
    "normed queries, keys and heads": {"qk_norm": True, "scale_attn_norm": True, "qkv_bias": False},
}


def slow_vit(visual: Any, tokens: Tensor, grid: tuple[int, int], reading: str) -> Tensor:
    """(D, h, w) of open_clip's ViT for one image's tokens (N, C) before the last block."""
    block = visual.transformer.resblocks[-1]
    width = tokens.shape[1]
    qkv = [
        linear(layer_norm(token, block.ln_1), block.attn.in_proj_weight, block.attn.in_proj_bias) for token in tokens
    ]
    gamma = block.ls_1.gamma.double() if hasattr(block.ls_1, "gamma") else 1.0
    dense = torch.zeros(24, *grid, dtype=torch.float64)
    for patch in range(1, len(tokens)):
        heads = []
        for start in range(0, width, 16):
            q, k, v = ([row[part + start : part + start + 16] for row in qkv] for part in (0, width, 2 * width))
            heads.append(read_head(q, k, v, patch, grid, reading))
        read = gamma * linear(torch.cat(heads), block.attn.out_proj.weight, block.attn.out_proj.bias)
        dense[:, (patch - 1) // grid[1], (patch - 1) % grid[1]] = (
            layer_norm(read, visual.ln_post) @ visual.proj.double()
        )
    return dense


def slow_timm(visual: Any, tokens: Tensor, grid: tuple[int, int], reading: str) -> Tensor:
    """The same of a timm ViT behind `TimmModel`."""
    trunk, block = visual.trunk, visual.trunk.blocks[-1]
    attention, width = block.attn, tokens.shape[1]
    qkv = [linear(layer_norm(token, block.norm1), attention.qkv.weight, attention.qkv.bias) for token in tokens]
    gamma = block.ls1.gamma.double() if hasattr(block.ls1, "gamma") else 1.0
    prefix = len(tokens) - grid[0] * grid[1]
    dense = torch.zeros(24, *grid, dtype=torch.float64)
    for patch in range(prefix, len(tokens)):
        heads = []
        for start in range(0, width, 16):
            q, k, v = ([row[part + start : part + start + 16] for row in qkv] for part in (0, width, 2 * width))
            q, k = [layer_norm(x, attention.q_norm) for x in q], [layer_norm(x, attention.k_norm) for x in k]
            heads.append(read_head(q, k, v, patch, grid, reading))
        read = gamma * linear(layer_norm(torch.cat(heads), attention.norm), attention.proj.weight, attention.proj.bias)
        read = layer_norm(layer_norm(read, trunk.norm), trunk.fc_norm)
        last = visual.head.proj if hasattr(visual.head, "proj") else trunk.head
        y, x = divmod(patch - prefix, grid[1])
        dense[:, y, x] = linear(read, last.weight, last.bias)
    return dense


@pytest.mark.parametrize("name", BACKBONES)
def test_every_variant_of_a_vit_is_the_slow_one(name: str) -> None:
    assert_every_reading_is_slow(make_vit(**BACKBONES[name]), slow_vit, "transformer.resblocks")


@pytest.mark.parametrize("name", TIMM_BACKBONES)
def test_every_variant_of_a_timm_vit_is_the_slow_one(name: str) -> None:
    assert_every_reading_is_slow(make_timm(**TIMM_BACKBONES[name]), slow_timm, "trunk.blocks")


@pytest.mark.parametrize("name", [*BACKBONES, *TIMM_BACKBONES])
def test_with_plain_attention_the_parts_are_those_of_the_backbone_itself(name: str) -> None:
    """Queries and keys in place of likes, residual and FFN put back: that is the backbone's own block and embedding."""
    is_timm = name in TIMM_BACKBONES
    backbone = make_timm(**TIMM_BACKBONES[name]) if is_timm else make_vit(**BACKBONES[name])
    visual, images = backbone.model.visual, pictures(16, 16)
    last = visual.trunk.blocks[-1] if is_timm else visual.transformer.resblocks[-1]
    x = tokens_before(last, lambda: backbone(images, with_dense=True)).float()
    parts = timm_block(visual, grid=(2, 2)) if is_timm else open_clip_block(visual)
    q, k, v = parts.qkv(parts.norm(x)).unflatten(2, (3, parts.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (parts.queries(q) @ parts.keys(k).transpose(2, 3) / math.sqrt(v.shape[3])).softmax(3)
    x = x + parts.out((weights @ v).transpose(1, 2).flatten(2))
    x = x + (last.ls2(last.mlp(last.norm2(x))) if is_timm else last.ls_2(last.mlp(last.ln_2(x))))
    torch.testing.assert_close(x, last(tokens_before(last, lambda: backbone(images, with_dense=True)).float()))
    if "mean" not in name and name != "CLIPA":  # a mean of head(x) is not head(mean of x)
        torch.testing.assert_close(parts.head(x)[:, 0], backbone(images, with_dense=True).embedding)


def test_neither_the_last_ffn_nor_its_activation_matters() -> None:
    backbone, images = make_vit(), pictures(32, 32)
    dense, embedding = backbone.dense(images), backbone(images, with_dense=True).embedding
    block = backbone.model.visual.transformer.resblocks[-1]
    for parameter in (*block.mlp.parameters(), *block.ln_2.parameters()):
        parameter.data.add_(1)
    block.mlp.gelu = nn.SiLU()
    assert torch.equal(backbone.dense(images), dense)
    assert not torch.allclose(backbone(images, with_dense=True).embedding, embedding, atol=1e-2)


@pytest.mark.parametrize(("grid", "sigma"), [((1, 1), 5.0), ((1, 4), 0.5), ((3, 5), 5.0)])
def test_the_window_is_the_gaussian_of_the_distance_between_patches(grid: tuple[int, int], sigma: float) -> None:
    window = gaussian_window(grid, sigma=sigma)
    assert window.shape == (grid[0] * grid[1],) * 2
    for i in range(len(window)):
        for j in range(len(window)):
            (y, x), (v, u) = divmod(i, grid[1]), divmod(j, grid[1])
            expected = math.exp(-(math.dist((y, x), (v, u)) ** 2) / (2 * sigma**2))
            assert float(window[i, j]) == pytest.approx(expected, rel=1e-5)


def test_a_narrow_window_is_the_patch_itself_and_a_wide_one_is_flat() -> None:
    assert torch.equal(gaussian_window((2, 3), sigma=1e-3), torch.eye(6))
    torch.testing.assert_close(gaussian_window((2, 3), sigma=1e4), torch.ones(6, 6))


def heads_of(grid: tuple[int, int], *, prefix: int = 1) -> Tensor:
    """Made-up queries, keys and values (3, 1, 2, N, 4)."""
    shape = (3, 1, 2, prefix + grid[0] * grid[1], 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("reading", DENSE_READINGS)
def test_one_patch_alone_reads_its_own_value(reading: str) -> None:
    q, k, v = heads_of((1, 1), prefix=0)
    torch.testing.assert_close(attend(q, k, v, grid=(1, 1), reading=reading), v)


@pytest.mark.parametrize("reading", DENSE_READINGS)
def test_mirrored_tokens_give_the_mirrored_map(reading: str) -> None:
    heads = heads_of((2, 3))
    mirror = [0, *(1 + row * 3 + column for row in range(2) for column in (2, 1, 0))]
    found = attend(*heads, grid=(2, 3), reading=reading)
    mirrored = attend(*heads[:, :, :, mirror], grid=(2, 3), reading=reading)
    torch.testing.assert_close(mirrored.unflatten(2, (2, 3)).flip(3).flatten(2, 3), found)


@pytest.mark.parametrize(("reading", "reads"), [("v", ""), ("vv", ""), ("kk", "k"), ("kk_gaussian", "k"), ("qq", "q")])
def test_a_variant_reads_nothing_but_what_it_is_named_after(reading: str, reads: str) -> None:
    q, k, v = heads_of((2, 3))
    found = attend(q, k, v, grid=(2, 3), reading=reading)
    assert torch.equal(attend(q.flip(2), k, v, grid=(2, 3), reading=reading), found) is (reads != "q")
    assert torch.equal(attend(q, k.flip(2), v, grid=(2, 3), reading=reading), found) is (reads != "k")


def test_the_value_of_a_patch_alone_does_not_depend_on_the_other_patches() -> None:
    q, k, v = heads_of((2, 3))
    assert torch.equal(attend(q, k, v, grid=(2, 3), reading="v"), v[:, :, 1:])


def test_no_gradient_is_recorded() -> None:
    backbone, images = make_vit(), pictures(32, 32).requires_grad_()
    assert not any(backbone.dense(images, reading=reading).requires_grad for reading in DENSE_READINGS)


@pytest.mark.parametrize(
    ("name", "readings"),
    [
        ("ViT-B-32", DENSE_READINGS),
        *(
            pytest.param(name, readings, marks=pytest.mark.slow)
            for name, readings in (
                ("ViT-L-14-CLIPA", DENSE_READINGS),
                ("MobileCLIP-B", DENSE_READINGS),
                ("coca_ViT-B-32", ("values",)),
                ("ViT-B-16-SigLIP2", ("values",)),
                ("PE-Core-B-16", ("values",)),
                ("EVA02-B-16", DENSE_READINGS),
                ("RN50", ("values",)),
                ("convnext_tiny", ("projection",)),
            )
        ),
    ],
)
def test_a_description_lists_the_dense_readings(name: str, readings: tuple[str, ...]) -> None:
    found = describe_backbone(name)
    assert found.dense_readings == readings
    assert found.has_dense == bool(readings)


@pytest.mark.slow
def test_the_chosen_default_stays_through_a_saved_tokenizer(
    checkpoint_of: Callable[[str], Path], smooth: Callable[..., Tensor], tmp_path: Path
) -> None:
    preset = PyramidTokenizer.from_backbone(str(checkpoint_of("vit"))).config
    levels = tuple(dataclasses.replace(level, codebook_size=4) for level in preset.quantizer.levels)
    chosen = name_backbone(str(checkpoint_of("vit")), dense_reading="vv")
    quantizer = dataclasses.replace(preset.quantizer, levels=levels)
    config = dataclasses.replace(preset, backbone=chosen, quantizer=quantizer)
    tok = PyramidTokenizer.from_config(config)
    tok.fit([smooth(8)])
    again = PyramidTokenizer.from_pretrained(tok.save_pretrained(tmp_path / "model"))
    assert again.config.backbone.dense_reading == "vv"
    assert again.backbone.dense_readings == ("vv", "kk_gaussian", "kk", "qq", "v")
    assert again.fingerprint == tok.fingerprint


def test_the_config_names_the_default_where_a_backbone_is_loaded(checkpoint_of: Callable[[str], Path]) -> None:
    config = BackboneConfig(dense_reading="qq")
    assert load_backbone(config, directory=checkpoint_of("vit")).dense_readings[0] == "qq"
    assert ToyBackbone(BackboneConfig(kind="toy", dense_reading="projection")).dense_readings == ("projection",)


def test_the_first_variant_is_taken_and_unknown_ones_are_refused() -> None:
    assert order_readings("", ("vv", "kk")) == ("vv", "kk")
    assert order_readings("kk", ("vv", "kk")) == ("kk", "vv")
    assert check_reading(None, ("vv", "kk"), backbone="it") == "vv"
    assert check_reading("kk", ("vv", "kk"), backbone="it") == "kk"
    with pytest.raises(BackboneError, match="vv, kk.*''"):
        check_reading("", ("vv", "kk"), backbone="it")

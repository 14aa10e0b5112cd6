"""Dense maps of EVA's blocks against a slow reference from the formulas, and what is read where the last block is another one."""

from __future__ import annotations

import cmath
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyramid_tokenizer.backbones.last_block import timm_block
from pyramid_tokenizer.backbones.reader import with_part
from pyramid_tokenizer.backbones.timm import TimmReader
from tests.backbones.formulas import (
    assert_every_reading_is_slow,
    layer_norm,
    linear,
    make_timm,
    pictures,
    read_head,
    tokens_before,
)

ROTARY = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}
EVAS: dict[str, dict[str, Any]] = {
    "EVA01": {},
    "EVA02 base": {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, **ROTARY},
    "EVA02 enormous": {"use_post_norm": True},
    "layer scale, separate positions of rows and columns": {"init_values": 0.3, "rope_grid_indexing": "xy", **ROTARY},
    "normed queries, mean pool": {"attn_type": "rope", "qk_norm": True, "class_token": False, "global_pool": "avg"},
}


def turned(x: Tensor, patch: int, grid: tuple[int, int], trunk: Any) -> Tensor:
    """One head's query or key of a patch, turned by its rotary position.

    Channels 2 j and 2 j + 1 are one complex number. The first half of these numbers turns with the row and the second half
    with the column (for "xy" the other way round), in units of the grid that the angles were made for.
    """
    row, column = divmod(patch, grid[1])
    places = [row * 4 / grid[0], column * 4 / grid[1]]
    places = places[::-1] if trunk.rope.grid_indexing == "xy" else places
    pairs, result = len(x) // 2, torch.zeros_like(x)
    for j in range(pairs):
        half, band = divmod(j, pairs // 2)
        number = complex(x[2 * j], x[2 * j + 1]) * cmath.rect(1, places[half] * 10_000 ** (-band / (pairs // 2)))
        result[2 * j], result[2 * j + 1] = number.real, number.imag
    return result


def project(attention: Any, token: Tensor) -> list[Tensor]:
    """Query, key and value of one token, all heads side by side."""
    if attention.qkv is None:
        layers = (attention.q_proj, attention.k_proj, attention.v_proj)
        return [linear(token, layer.weight, layer.bias) for layer in layers]
    biases = (attention.q_bias, None, attention.v_bias) if hasattr(attention, "q_bias") else attention.qkv.bias.chunk(3)
    return [linear(token, *pair) for pair in zip(attention.qkv.weight.chunk(3), biases, strict=True)]


def slow_eva(visual: Any, tokens: Tensor, grid: tuple[int, int], reading: str) -> Tensor:
    """(D, h, w) of an EVA network for one image's tokens (N, C) before the last block."""
    trunk, block = visual.trunk, visual.trunk.blocks[-1]
    attention, comes_last = block.attn, not hasattr(block, "gamma_1")
    prefix = len(tokens) - grid[0] * grid[1]
    qkv = [project(attention, token if comes_last else layer_norm(token, block.norm1)) for token in tokens]
    heads = []
    for start in range(0, tokens.shape[1], 16):
        q, k, v = ([row[part][start : start + 16] for row in qkv] for part in range(3))
        q, k = [layer_norm(x, attention.q_norm) for x in q], [layer_norm(x, attention.k_norm) for x in k]
        for token in range(prefix, len(tokens) if trunk.rope is not None else prefix):
            q[token], k[token] = (turned(x[token], token - prefix, grid, trunk) for x in (q, k))
        heads.append((q, k, v))
    dense = torch.zeros(24, *grid, dtype=torch.float64)
    for patch in range(prefix, len(tokens)):
        read = torch.cat([read_head(*head, patch, grid, reading) for head in heads])
        read = linear(layer_norm(read, attention.norm), attention.proj.weight, attention.proj.bias)
        if comes_last:
            read = layer_norm(read, block.norm1)
        elif block.gamma_1 is not None:
            read = block.gamma_1.double() * read
        read = layer_norm(layer_norm(read, trunk.norm), trunk.fc_norm)
        y, x = divmod(patch - prefix, grid[1])
        dense[:, y, x] = linear(read, trunk.head.weight, trunk.head.bias)
    return dense


@pytest.mark.parametrize("name", EVAS)
def test_every_reading_of_an_eva_network_is_the_slow_one(name: str) -> None:
    backbone = make_timm(kind="Eva", **{"global_pool": "token", "depth": 2, **EVAS[name]})
    assert_every_reading_is_slow(backbone, slow_eva, "trunk.blocks")


@pytest.mark.parametrize("name", [*EVAS, "rotary positions of each block"])
def test_with_plain_attention_the_parts_are_those_of_the_block_itself(name: str) -> None:
    """Queries and keys in place of likes, residual and FFN put back: that is the backbone's own block and embedding."""
    options = EVAS.get(name, {"use_rot_pos_emb": True, "rope_type": "mixed"})
    backbone = make_timm(kind="Eva", **{"global_pool": "token", "depth": 2, **options})
    visual, images, last = backbone.model.visual, pictures(16, 24), backbone.model.visual.trunk.blocks[-1]
    after: list[Tensor] = []
    handle = last.register_forward_hook(lambda *args: after.append(args[-1]))
    x = tokens_before(last, lambda: backbone(images, with_dense=True)).float()
    handle.remove()
    sized = with_part(visual, "_modules", "trunk", TimmReader(visual)._at_size(images))
    parts = timm_block(sized, grid=(2, 3))
    q, k, v = parts.qkv(parts.norm(x)).unflatten(2, (3, parts.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (parts.queries(q) @ parts.keys(k).transpose(2, 3) / math.sqrt(v.shape[3])).softmax(3)
    x = x + parts.out((weights @ v).transpose(1, 2).flatten(2))
    if name == "EVA02 enormous":
        x = x + last.norm2(last.mlp(x))
    else:
        x = x + (1 if last.gamma_2 is None else last.gamma_2) * last.mlp(last.norm2(x))
    torch.testing.assert_close(x, after[0])
    if visual.trunk.global_pool == "token":  # a mean of head(x) is not head(mean of x)
        torch.testing.assert_close(parts.head(x)[:, 0], backbone(images, with_dense=True).embedding)


def test_an_eva_network_at_another_size_turns_its_keys_by_the_positions_of_that_size() -> None:
    """Values have no position, so that "v" of equal patches is equal everywhere, and "kk" is not."""
    backbone = make_timm(kind="Eva", **EVAS["EVA02 base"])
    nn.init.zeros_(backbone.model.visual.trunk.pos_embed)
    for block in backbone.model.visual.trunk.blocks[
        :-1
    ]:  # without them, the last block reads the same patch everywhere
        nn.init.zeros_(block.attn.proj.weight)
    flat = torch.full((1, 3, 16, 48), 0.3)
    values, keys = backbone.dense(flat, reading="v"), backbone.dense(flat, reading="kk")
    torch.testing.assert_close(values, values[:, :, :1, :1].expand_as(values))
    assert (keys - keys[:, :, :1, :1]).abs().max() > 1e-3

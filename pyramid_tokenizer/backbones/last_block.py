"""The last block of every family of ViTs, under the names of `LastBlock`.

| family | norm before the attention | queries and keys | behind the output projection |
| --- | --- | --- | --- |
| open_clip's ViT | `ln_1` | as they are | LayerScale, where there is one |
| timm's ViT (MobileCLIP-B, ViTamin) | `norm1` | normed, where the block does it | LayerScale, where there is one |
| EVA01 | `norm1` | as they are | nothing |
| EVA02 base and large | `norm1` | turned by their rotary positions | nothing; a norm stands before the projection |
| EVA02 enormous | none | as they are | `norm1` |

The class token has no rotary position, as in the backbone itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.dense import LastBlock, Layer
from pyramid_tokenizer.backbones.locations import open_clip_head, timm_head


def open_clip_block(visual: Any) -> LastBlock:
    """The last block of open_clip's own `VisionTransformer`, where `open_clip_has_plain_block`.

    Whether the model norms before or after pooling, and pools by class token or mean, makes no difference for a single patch.
    """
    block = visual.transformer.resblocks[-1]
    return LastBlock(
        norm=block.ln_1,
        qkv=lambda x: F.linear(x, block.attn.in_proj_weight, block.attn.in_proj_bias),
        num_heads=block.attn.num_heads,
        queries=_same,
        keys=_same,
        out=lambda x: block.ls_1(block.attn.out_proj(x)),
        head=open_clip_head(visual),
    )


def timm_block(visual: Any, *, grid: Sequence[int]) -> LastBlock:
    """The last block of a timm trunk in open_clip's `TimmModel`, where `timm_has_plain_block`.

    Args:
        visual: The `TimmModel`, with rotary positions for `grid` where it has such.
        grid: (h, w), rows and columns of patches.
    """
    block = visual.trunk.blocks[-1]
    head = timm_head(visual)
    parts = _eva_block(visual.trunk, block, grid) if _is_eva(block) else _vit_block(block)
    return LastBlock(num_heads=block.attn.num_heads, head=lambda x: head(visual.trunk.norm(x)), **parts)


def open_clip_has_plain_block(visual: Any) -> bool:
    """Whether the readings by attention are defined for an open_clip `VisionTransformer`: its last block has plain attention."""
    from open_clip.transformer import ResidualAttentionBlock

    blocks = visual.transformer.resblocks
    return len(blocks) > 1 and type(blocks[-1]) is ResidualAttentionBlock


def timm_has_plain_block(trunk: Any) -> bool:
    """The same of timm's `VisionTransformer` and `Eva`: ungated attention, as many heads of keys as of queries."""
    from timm.layers.attention import Attention, AttentionRope
    from timm.models.eva import EvaAttention
    from timm.models.vision_transformer import Block

    block = trunk.blocks[-1]
    attention = getattr(block, "attn", None)  # some blocks hold its weights themselves
    if _is_eva(block):
        plain = isinstance(attention, EvaAttention) or (
            type(attention) is AttentionRope and attention.num_kv_groups == 1
        )
    else:
        plain = type(block) is Block and type(attention) is Attention
    return plain and getattr(attention, "gate", None) is None and len(trunk.blocks) > 1


def _vit_block(block: Any) -> dict[str, Layer]:
    attention = block.attn
    return {
        "norm": block.norm1,
        "qkv": attention.qkv,
        "queries": attention.q_norm,
        "keys": attention.k_norm,
        "out": lambda x: block.ls1(attention.proj(attention.norm(x))),
    }


def _eva_block(trunk: Any, block: Any, grid: Sequence[int]) -> dict[str, Layer]:
    from timm.models.eva import EvaBlockPostNorm

    attention = block.attn
    turn = _rotation(trunk, attention, grid)
    norm_comes_last = type(block) is EvaBlockPostNorm

    def out(x: Tensor) -> Tensor:
        x = attention.proj(attention.norm(x))
        if norm_comes_last:
            return block.norm1(x)
        return x if block.gamma_1 is None else block.gamma_1 * x

    return {
        "norm": _same if norm_comes_last else block.norm1,
        "qkv": _eva_qkv(attention),
        "queries": lambda q: turn(attention.q_norm(q)),
        "keys": lambda k: turn(attention.k_norm(k)),
        "out": out,
    }


def _eva_qkv(attention: Any) -> Layer:
    if attention.qkv is None:
        return lambda x: torch.cat([attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)], dim=-1)
    if getattr(attention, "q_bias", None) is None:
        return attention.qkv
    bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return lambda x: F.linear(x, attention.qkv.weight, bias)


def _rotation(trunk: Any, attention: Any, grid: Sequence[int]) -> Layer:
    """(B, heads, N, d) -> the same: patches turned by the rotary positions that the trunk gives its last block."""
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat

    if trunk.rope is None:
        return _same
    angles = trunk.rope.get_embed(shape=list(grid))  # (h * w, 2 d), or one for each block
    angles = angles[-1] if trunk.rope_mixed else angles

    def turn(x: Tensor) -> Tensor:
        prefix, patches = x.tensor_split([attention.num_prefix_tokens], dim=2)
        turned = apply_rot_embed_cat(patches, angles, half=attention.rotate_half)
        return torch.cat([prefix, turned], dim=2).to(x.dtype)

    return turn


def _is_eva(block: Any) -> bool:
    from timm.models.eva import EvaBlock, EvaBlockPostNorm

    return type(block) in (EvaBlock, EvaBlockPostNorm)


def _same(x: Tensor) -> Tensor:
    return x

"""Dense features by the backbone's own head: it is applied to each location as if the location were the whole image.

| reading | pool of the backbone | what each location goes through |
| --- | --- | --- |
| "values" | attention (SigLIP, PE-Core, CoCa) | value projection -> output projection -> what follows the attention |
| "projection" | mean or class token | what the backbone does to its mean or its class token |

An attention pool weighs the values of all locations by the similarity of their keys with a query. A location alone has weight
1, whatever query and key are, so that nothing but the value is left; what follows the attention (the pool's FFN, norms, the
projection) stays as it is. Positions that a pool adds to its keys and values are left out. Where all tokens are equal and the
pool adds no positions, every location has the embedding of the image.

Source: Zhou et al., "Extract Free Dense Labels from CLIP" (MaskCLIP), arXiv 2112.01071, section 3.2, for the pool of a ResNet.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones.dense import Layer

VALUES: tuple[str, ...] = ("values",)
PROJECTION: tuple[str, ...] = ("projection",)


def apply_to_cells(head: Layer, cells: Tensor) -> Tensor:
    """(B, D, h, w): a head that reads each token alone, at every cell of a map (B, C, h, w)."""
    tokens = cells.flatten(2).transpose(1, 2)  # (B, h * w, C)
    return head(tokens).transpose(1, 2).unflatten(2, cells.shape[-2:])


def open_clip_head(visual: Any) -> Layer:
    """(B, N, C) -> (B, N, D): what open_clip's `VisionTransformer` does to tokens of its last block, each one alone."""

    def head(x: Tensor) -> Tensor:
        if visual.attn_pool is not None:
            x = open_clip_pool(visual.attn_pool, x)
        x = visual.ln_post(x)
        return x @ visual.proj if visual.proj is not None else x

    return head


def timm_head(visual: Any) -> Layer:
    """(B, N, C) -> (B, N, D): what a `TimmModel` does to the final features of its trunk, each one alone.

    Final features are those behind the trunk's last norm, in order of rows.
    """
    trunk = visual.trunk

    def head(x: Tensor) -> Tensor:
        if "pool" in visual.head._modules:
            x = timm_pool_2d(visual.head.pool, x)
            for layer in list(visual.head)[1:]:
                x = layer(x)
            return x
        if trunk.attn_pool is not None:
            x = timm_latent_pool(trunk.attn_pool, x)
        return visual.head(trunk.head(trunk.fc_norm(x)))

    return head


def open_clip_pool(pool: Any, tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B, N, D): CoCa's `AttentionalPooler` of each token alone. All of its queries then give the same.

    Args:
        pool: The pooler.
        tokens: (B, N, C), tokens of the last block.
    """
    attention = pool.attn
    size = attention.embed_dim
    weight = attention.v_proj_weight if attention.in_proj_weight is None else attention.in_proj_weight[-size:]
    return attention.out_proj(F.linear(pool.ln_k(tokens), weight, attention.in_proj_bias[-size:]))


def timm_latent_pool(pool: Any, tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B, N, C): timm's `AttentionPoolLatent` (SigLIP, PE-Core) of each token alone.

    Args:
        pool: The pool.
        tokens: (B, N, C), tokens behind the trunk's last norm.
    """
    x = pool.proj(_last_projection(pool.kv, pool.num_heads * pool.head_dim, tokens))
    return x if pool.mlp is None else x + pool.mlp(pool.norm(x))


def timm_pool_2d(pool: Any, tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B, N, D): the value and output projections of `AttentionPool2d` and `RotAttentionPool2d` of timm.

    Args:
        pool: The pool, as open_clip puts it behind a convolutional trunk.
        tokens: (B, N, C), the cells of the trunk's last map.
    """
    return pool.proj(_last_projection(pool.qkv, pool.embed_dim, tokens))


def _last_projection(linear: nn.Linear, size: int, x: Tensor) -> Tensor:
    """The last `size` channels of a layer, where values stand behind queries and keys."""
    bias = None if linear.bias is None else linear.bias[-size:]
    return F.linear(x, linear.weight[-size:], bias)

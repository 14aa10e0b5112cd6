"""Dense features of ViTs: one vector of CLIP's joint space for every patch, computed from the last block.

`last_block.py` finds the parts of that block, family by family; backbones that are read in another way are in `locations.py`.

A ViT is trained through one pooled token, and the features of single patches are not aligned with text: the residual stream
and the last FFN move them away. Work on training-free segmentation found a remedy: of the last block keep only the attention
branch (no residual, no FFN), and let each token attend to similar tokens. The backbone's own final norm and projection are
then applied to each patch. A *dense reading* is one choice of attention weights:

    tokens before the last block -> norm -> q, k, v per head -> a reading below -> output projection -> final norm -> projection

| dense reading | attention weights over all tokens, class token included |
| --- | --- |
| "kk_gaussian" | softmax(k kT / sqrt(d) + a Gaussian of the distance between patches) |
| "vv", "kk", "qq" | softmax(v vT / sqrt(d)), of keys, of queries |
| "v" | none: each patch keeps its own value |

Source: "v" is MaskCLIP's attention (Zhou et al., arXiv 2112.01071, section 3.2), "vv" CLIP Surgery's (Li et al., 2304.05653), the
sum of "qq" and "kk" SCLIP's (Wang et al., 2312.01597), "kk_gaussian" NACLIP's (Hajimiri et al., 2404.08181, section 3); that
residual and FFN do harm is ClearCLIP's finding (Lan et al., 2407.12442), which uses "qq". All readings here leave both out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DENSE_READINGS: tuple[str, ...] = ("kk_gaussian", "vv", "kk", "qq", "v")
"""The dense readings of a ViT whose last block has plain attention; the first one is the default."""

GAUSSIAN_SIGMA = 5.0
"""Standard deviation in patches: NACLIP's published setting, for crops of 14 patches per side."""

Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class LastBlock:
    """A ViT's last block without its FFN, and its head, under one set of names for all families.

    It is made anew for each call: one that is stored would still refer to the old weights after a copy of the backbone.
    """

    norm: Layer
    """(B, N, C) -> (B, N, C), the norm before the attention; the identity where a block has none."""
    qkv: Layer
    """(B, N, C) -> (B, N, 3 A): queries, keys and values of all heads, side by side."""
    num_heads: int
    """Number of heads; each has A / num_heads channels."""
    queries: Layer
    """(B, heads, N, A / heads) -> the same: what the block does to queries before it compares them with keys, that is a norm,
    rotary positions, both or nothing."""
    keys: Layer
    """The same of keys."""
    out: Layer
    """(B, N, A) -> (B, N, C): output projection, and the norm or LayerScale behind it where the block has one."""
    head: Layer
    """(B, N, C) -> (B, N, D): what the backbone does to its pooled token, here done to every token."""


def dense_features(block: LastBlock, cells: Tensor, prefix: Tensor, *, reading: str) -> Tensor:
    """(B, D, h, w): the dense features, one vector of the joint space per patch, not normalised.

    Args:
        block: The backbone's last block.
        cells: (B, C, h, w), the patch tokens before the last block.
        prefix: (B, p, C), class and register tokens before the last block; p may be 0.
        reading: One of `DENSE_READINGS`.

    Source: see the module.
    """
    height, width = cells.shape[-2:]
    tokens = torch.cat([prefix, cells.flatten(2).transpose(1, 2)], dim=1)  # (B, p + h * w, C)
    q, k, v = block.qkv(block.norm(tokens)).unflatten(2, (3, block.num_heads, -1)).permute(2, 0, 3, 1, 4)
    read = attend(block.queries(q), block.keys(k), v, grid=(height, width), reading=reading)
    read = block.out(read.transpose(1, 2).flatten(2))  # (B, h * w, C)
    return block.head(read).transpose(1, 2).unflatten(2, (height, width))  # (B, D, h, w)


def attend(q: Tensor, k: Tensor, v: Tensor, *, grid: Sequence[int], reading: str) -> Tensor:
    """(B, heads, h * w, d): the values that each patch attends to, by one kind of self-self attention.

    Args:
        q: (B, heads, p + h * w, d), queries of the p prefix tokens and of the patches, row by row.
        k: Keys of the same shape.
        v: Values of the same shape.
        grid: (h, w), rows and columns of patches.
        reading: One of `DENSE_READINGS`.

    Example:
        >>> v = torch.arange(6.0).reshape(1, 1, 3, 2)  # a class token and two patches
        >>> attend(v, v, v, grid=(1, 2), reading="v")
        tensor([[[[2., 3.],
                  [4., 5.]]]])
    """
    num_prefix = v.shape[2] - grid[0] * grid[1]
    if reading == "v":
        return v[:, :, num_prefix:]
    alike = {"q": q, "k": k, "v": v}[reading[0]]
    bias = None
    if reading == "kk_gaussian":  # nothing is added for class and register tokens: they have no position
        bias = F.pad(gaussian_window(grid, device=v.device), (num_prefix, 0)).to(v.dtype)  # (h * w, p + h * w)
    return F.scaled_dot_product_attention(alike[:, :, num_prefix:], alike, v, attn_mask=bias)


def gaussian_window(
    grid: Sequence[int], *, sigma: float = GAUSSIAN_SIGMA, device: torch.device | None = None
) -> Tensor:
    """(h * w, h * w) float32 in (0, 1]: exp(-distance^2 / (2 sigma^2)) between the patches of a grid, row by row.

    Args:
        grid: (h, w), rows and columns of patches.
        sigma: Standard deviation in patches, above 0.
        device: Where the result lies.

    Source: NACLIP, arXiv 2404.08181, section 3.2: an isotropic Gaussian around the query patch, added to the logits.

    Example:
        >>> gaussian_window((1, 3), sigma=1.0)
        tensor([[1.0000, 0.6065, 0.1353],
                [0.6065, 1.0000, 0.6065],
                [0.1353, 0.6065, 1.0000]])
    """
    rows, columns = (_gaussian_line(side, sigma, device) for side in grid)
    return torch.kron(rows, columns)  # the Gaussian of a distance is the product over both axes


def _gaussian_line(side: int, sigma: float, device: torch.device | None) -> Tensor:
    places = torch.arange(side, device=device, dtype=torch.float32)
    return torch.exp(-(places[:, None] - places).square() / (2 * sigma**2))  # (side, side)

"""Backbones whose trunk comes from timm, in open_clip's wrapper."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones.dense import DENSE_READINGS, dense_features
from pyramid_tokenizer.backbones.last_block import timm_block, timm_has_plain_block
from pyramid_tokenizer.backbones.locations import PROJECTION, VALUES, apply_to_cells, timm_head
from pyramid_tokenizer.backbones.reader import (
    Chain,
    ReaderOutput,
    as_indices,
    run_small,
    stage_units,
    with_block,
    with_part,
)
from pyramid_tokenizer.backbones.rows import Unit

_CELLS_PER_HEAD = 2**13
"""Cells that the head gets at a time, those of 8 megapixels: some heads (FasterNet's) make thousands of numbers of each."""


class TimmReader:
    """A timm trunk in open_clip's `TimmModel`.

    It reads convolutional trunks (ConvNeXt, FastViT of MobileCLIP, RepViT, FasterNet) and ViTs (SigLIP, EVA-02, PE-Core and
    ViTamin), but not those that are built for one image size (Swin, relative positions).

    Dense features: where the backbone pools by a global mean, its own head (norm, convolutions, projection) is applied to every
    cell of the last features as if the cell were an image of 1x1. For ConvNeXt that is proj(norm(F4)) per location. Behind an
    attention pool (SigLIP, PE-Core) the pool's values are taken in the same way, see `locations.py`. Other ViTs (MobileCLIP-B,
    ViTamin, EVA) are read by their last block as in `dense.py`.
    """

    def __init__(self, visual: Any):
        self._visual = visual
        trunk = self._trunk = visual.trunk
        # Of the whole patch embedding: ViTamin and MobileCLIP-B put convolutions before their patches.
        ratio = getattr(getattr(trunk, "patch_embed", None), "feat_ratio", lambda: 32)()
        self.probe_px = ratio * max(2, 64 // ratio)
        if hasattr(trunk, "dynamic_img_size"):
            _allow_any_size(trunk)
        self._by_cell = self._pools_by_mean()
        self.dense_readings, self.no_dense_reason = (PROJECTION, "") if self._by_cell else timm_readings(visual)

    def maps(self, x: Tensor, blocks: Sequence[int] | None) -> list[Tensor]:
        """Maps of the blocks, shallow to deep."""
        return self._at_size(x).forward_intermediates(
            x, indices=as_indices(blocks), stop_early=True, intermediates_only=True
        )

    def with_dense(self, x: Tensor, blocks: Sequence[int] | None, *, reading: str | None = None) -> ReaderOutput:
        """Maps with the image embedding and, where there are any, the dense features."""
        if self.dense_readings == DENSE_READINGS:
            return self._with_dense_vit(x, blocks, reading or self.dense_readings[0])
        features, maps = self._at_size(x).forward_intermediates(x, indices=as_indices(blocks))
        return ReaderOutput(maps=maps, embedding=_head(self._visual, features), dense=self._dense(x, features))

    def chain(self) -> Chain | None:
        """Stem, downsamplings and blocks of a trunk that has stages and whose head reads a map."""
        trunk = self._trunk
        stem = getattr(trunk, "stem", None) or getattr(trunk, "patch_embed", None)
        stages = getattr(trunk, "stages", None)
        if not isinstance(stem, nn.Module) or not isinstance(stages, (nn.Sequential, nn.ModuleList)):
            return None
        later = [unit for block, stage in enumerate(stages) for unit in stage_units(stage, block)]
        return Chain(units=[Unit(run=stem), *later], finish=self._finish)

    def _finish(self, last: Tensor) -> ReaderOutput:
        """Embedding and dense features of the last stage's map."""
        features = last
        for name in ("norm_pre", "final_conv"):  # of ConvNeXt and of FastViT
            features = getattr(self._trunk, name, nn.Identity())(features)
        return ReaderOutput(maps=[], embedding=_head(self._visual, features), dense=self._dense(last, features))

    def _with_dense_vit(self, x: Tensor, blocks: Sequence[int] | None, reading: str) -> ReaderOutput:
        before_last = len(self._trunk.blocks) - 2
        asked, read = with_block(blocks, len(self._trunk.blocks), before_last)
        visual = with_part(self._visual, "_modules", "trunk", self._at_size(x))
        has_prefix = (
            self._trunk.num_prefix_tokens > 0
        )  # timm 1.0.31's Eva fails where it is asked for a prefix that it lacks
        output = visual.forward_intermediates(x, indices=read, output_extra_tokens=has_prefix)
        maps = dict(zip(read, output["image_intermediates"], strict=True))
        cells, prefix = maps[before_last], x.new_zeros(len(x), 0, self._trunk.embed_dim)
        if has_prefix:
            prefix = output["image_intermediates_prefix"][read.index(before_last)]
        dense = dense_features(timm_block(visual, grid=cells.shape[-2:]), cells, prefix, reading=reading)
        return ReaderOutput(maps=[maps[b] for b in asked], embedding=output["image_features"], dense=dense)

    def _dense(self, x: Tensor, features: Tensor) -> Tensor | None:
        """The dense features from the trunk's final ones: a map (B, C, h, w), or tokens (B, p + h * w, C) of a ViT."""
        if self._by_cell:
            return self._head_per_cell(features)
        if not self.dense_readings:
            return None
        if features.ndim == 4:
            cells = self._trunk.forward_head(features)  # its norm; the pool is open_clip's
        else:
            patches = features[:, self._trunk.num_prefix_tokens :]
            cells = patches.transpose(1, 2).unflatten(2, self._grid(x))  # (B, C, h, w)
        return apply_to_cells(timm_head(self._visual), cells)

    def _grid(self, x: Tensor) -> list[int]:
        """Rows and columns of a ViT's patches."""
        return list(self._trunk.patch_embed.dynamic_feat_size(tuple(x.shape[-2:])))

    def _at_size(self, x: Tensor) -> Any:
        """The trunk, or a shallow copy with rotary positions (EVA-02, PE-Core) for the grid of `x`.

        timm resamples absolute positions by itself, but its rotary ones stay at the grid they were built for.
        """
        rope: Any = getattr(self._trunk, "rope", None)
        if not hasattr(rope, "update_feat_shape"):
            return self._trunk
        grid = self._grid(x)
        if list(rope.feat_shape) == grid:
            return self._trunk
        rope = copy.deepcopy(rope)
        rope.update_feat_shape(grid)
        return with_part(self._trunk, "_modules", "rope", rope)

    def _head_per_cell(self, features: Tensor) -> Tensor:
        batch, channels, height, width = features.shape
        cells = features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)  # (B * h * w, C, 1, 1)
        visual = _for_single_cells(self._visual)
        # The number of parts depends on the batch, and a graph holds for all batches.
        parts = (cells,) if torch.compiler.is_compiling() else cells.split(_CELLS_PER_HEAD)
        found = torch.cat([_head(visual, part) for part in parts])
        return found.reshape(batch, height, width, -1).permute(0, 3, 1, 2)  # (B, D, h, w)

    def _pools_by_mean(self) -> bool:
        """Whether the head reads a (B, C, h, w) map through the mean of its cells alone, tried on one made-up map."""
        if "pool" in self._visual.head._modules:
            return False  # open_clip's own attention pools
        weight = next(self._visual.parameters())
        features, _ = run_small(lambda x: self._at_size(x).forward_intermediates(x, indices=1), self.probe_px, weight)
        if features.ndim != 4 or features.shape[1] != self._trunk.num_features:
            return False
        # of a backbone without values (`describe_backbone`), the head is tried with made-up ones on the CPU
        visual = _with_made_up_head(self._visual, features) if weight.is_meta else self._visual
        made_up = _waves((1, features.shape[1], 2, 3))
        made_up = made_up.to(device="cpu" if weight.is_meta else weight.device, dtype=weight.dtype)
        whole, mean = _head(visual, made_up), _head(visual, made_up.mean(dim=(2, 3), keepdim=True))
        return whole.ndim == 2 and torch.allclose(whole, mean, rtol=1e-3, atol=1e-4)


def timm_readings(visual: Any) -> tuple[tuple[str, ...], str]:
    """The dense readings of a `TimmModel` that does not pool cells by a plain mean, and why there are none.

    The reason is a clause that follows "whose", or "".
    """
    from timm.layers.attention_pool import AttentionPoolLatent
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    trunk = visual.trunk
    if "pool" in visual.head._modules:
        return VALUES, ""
    if type(trunk) not in (VisionTransformer, Eva):
        return (), f"trunk {type(trunk).__name__} is neither pooled by a plain mean nor a ViT whose head is known"
    if type(trunk.attn_pool) is AttentionPoolLatent:
        return VALUES, ""
    if trunk.attn_pool is not None:
        return (), f"attention pool {type(trunk.attn_pool).__name__} has no values of single patches"
    if trunk.global_pool not in ("token", "avg"):
        return (), f"pool {trunk.global_pool!r} is neither the class token nor a mean"
    return (DENSE_READINGS if timm_has_plain_block(trunk) else PROJECTION), ""


def _allow_any_size(trunk: Any) -> None:
    """Sets what timm's `dynamic_img_size=True` sets at construction; open_clip has no way to pass it on."""
    from timm.layers.format import Format

    trunk.dynamic_img_size = True
    trunk.patch_embed.strict_img_size = False
    trunk.patch_embed.flatten = False
    trunk.patch_embed.output_fmt = Format.NHWC


def _head(visual: Any, features: Tensor) -> Tensor:
    """The embedding (B, D) of a timm trunk's last features."""
    return visual.head(visual.trunk.forward_head(features))


def _for_single_cells(visual: Any) -> Any:
    """`visual` for images of 1 x 1, where a 1 x 1 convolution of its head (FasterNet has one) is a matrix product.

    On a CPU the product takes a third of the convolution's time. Every weight is shared.
    """
    conv = getattr(visual.trunk, "conv_head", None)
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1) or conv.padding != (0, 0) or conv.groups != 1:
        return visual
    return with_part(visual, "_modules", "trunk", with_part(visual.trunk, "_modules", "conv_head", _AsProduct(conv)))


class _AsProduct(nn.Module):
    """A 1 x 1 convolution of images of 1 x 1, as a matrix product."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self._conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self._conv.weight.flatten(1), self._conv.bias)[..., None, None]


def _with_made_up_head(visual: nn.Module, features: Tensor) -> Any:
    """A copy of a backbone on the "meta" device, in which the modules that its head runs lie on the CPU."""
    visual = copy.deepcopy(visual)
    called: list[nn.Module] = []
    watch = nn.modules.module.register_module_forward_pre_hook(lambda module, _: called.append(module))
    try:
        _head(visual, features)
    finally:
        watch.remove()
    for module in called:
        module.to_empty(device="cpu", recurse=False)
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            tensor.data.copy_(_waves(tensor.shape).abs() + 0.1)  # a variance must be positive
    return visual


def _waves(shape: Sequence[int]) -> Tensor:
    """Made-up values in [-1, 1] that hardly repeat."""
    return torch.arange(math.prod(shape), dtype=torch.float64).mul(0.7).sin().reshape(tuple(shape))

"""Backbones whose trunk comes from timm, in open_clip's wrapper."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyramid_tokenizer.backbones.dense import DENSE_READINGS, dense_features, timm_block, timm_no_dense_reason
from pyramid_tokenizer.backbones.reader import ReaderOutput, as_indices, run_small, with_part, with_penultimate


class TimmReader:
    """A timm trunk in open_clip's `TimmModel`.

    It reads convolutional trunks (ConvNeXt, FastViT of MobileCLIP, RepViT, FasterNet) and ViTs (SigLIP, EVA-02, PE-Core and
    ViTamin), but not those that are built for one image size (Swin, relative positions).

    Dense features: where the backbone pools by a global mean, its own head (norm, convolutions, projection) is applied to every
    cell of the last features as if the cell were an image of 1x1. For ConvNeXt that is proj(norm(F4)) per location. A plain ViT
    (MobileCLIP-B, ViTamin) is read as in `dense.py`. Networks with an attention pool (SigLIP) have none.
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
        self.no_dense_reason = "" if self._by_cell else timm_no_dense_reason(visual)
        by_attention = () if self.no_dense_reason else DENSE_READINGS
        self.dense_readings: tuple[str, ...] = ("projection",) if self._by_cell else by_attention

    def maps(self, x: Tensor, blocks: Sequence[int] | None) -> list[Tensor]:
        """Maps of the blocks, shallow to deep."""
        return self._at_size(x).forward_intermediates(
            x, indices=as_indices(blocks), stop_early=True, intermediates_only=True
        )

    def with_dense(self, x: Tensor, blocks: Sequence[int] | None, *, reading: str | None = None) -> ReaderOutput:
        """Maps with the image embedding and, where there are any, the dense features."""
        if self.dense_readings and not self._by_cell:
            return self._with_dense_vit(x, blocks, reading or self.dense_readings[0])
        features, maps = self._at_size(x).forward_intermediates(x, indices=as_indices(blocks))
        return ReaderOutput(
            maps=maps,
            embedding=_head(self._visual, features),
            dense=self._head_per_cell(features) if self._by_cell else None,
        )

    def _with_dense_vit(self, x: Tensor, blocks: Sequence[int] | None, reading: str) -> ReaderOutput:
        count = len(self._trunk.blocks)
        asked, read = with_penultimate(blocks, count)
        options = {"return_prefix_tokens": True, "output_dict": True}
        output = self._trunk.forward_intermediates(x, indices=read, **options)
        maps = dict(zip(read, output["image_intermediates"], strict=True))
        cells = maps[count - 2]
        prefixes = output.get("image_intermediates_prefix")  # not there without class token
        prefix = prefixes[read.index(count - 2)] if prefixes else cells.new_zeros(len(cells), 0, cells.shape[1])
        dense = dense_features(timm_block(self._visual), cells, prefix, reading=reading)
        embedding = _head(self._visual, output["image_features"])
        return ReaderOutput(maps=[maps[b] for b in asked], embedding=embedding, dense=dense)

    def _at_size(self, x: Tensor) -> Any:
        """The trunk, or a shallow copy with rotary positions (EVA-02, PE-Core) for the grid of `x`.

        timm resamples absolute positions by itself, but its rotary ones stay at the grid they were built for.
        """
        rope: Any = getattr(self._trunk, "rope", None)
        if not hasattr(rope, "update_feat_shape"):
            return self._trunk
        grid = list(self._trunk.patch_embed.dynamic_feat_size(tuple(x.shape[-2:])))
        if list(rope.feat_shape) == grid:
            return self._trunk
        rope = copy.deepcopy(rope)
        rope.update_feat_shape(grid)
        return with_part(self._trunk, "_modules", "rope", rope)

    def _head_per_cell(self, features: Tensor) -> Tensor:
        batch, channels, height, width = features.shape
        cells = features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)  # (B * h * w, C, 1, 1)
        return _head(self._visual, cells).reshape(batch, height, width, -1).permute(0, 3, 1, 2)  # (B, D, h, w)

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

"""Image towers by family: one way to ask open_clip's three kinds for maps, embedding and dense map at any image size.

All three answer `forward_intermediates`, but a ViT refuses sizes other than its own, the ResNet's attention pool does
too, and open_clip's wrapper hides the features that a timm trunk's head reads. The classes here smooth that out without
touching a weight, and hold the module they wrap; `probe` learns what comes out by running one small image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones import dense_attention
from pyramid_tokenizer.errors import BackboneError

Output = TypeVar("Output")


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerOutput:
    """Maps of the asked blocks, shallow to deep, and what the whole tower says."""

    maps: list[Tensor]
    """(B, C, h, w) each."""
    embedding: Tensor
    """(B, D), as `visual(x)` gives it."""
    dense: Tensor | None
    """(B, D, h, w); None where the family has none."""


class Tower(Protocol):
    """One family of image towers. `x` is (B, 3, H, W), normalised; `blocks` are indices, None for all."""

    dense_variants: tuple[str, ...]
    """Names of its dense maps, the default first; () where none is defined."""
    obstacle: str
    """Why none is defined, to follow "whose"; "" where one is."""
    probe_px: int
    """Side of a small square image that the tower can read."""

    def maps(self, x: Tensor, blocks: Sequence[int] | None) -> list[Tensor]:
        """Maps of the blocks, shallow to deep; blocks behind the last one do not run."""
        ...

    def aligned(self, x: Tensor, blocks: Sequence[int] | None, *, variant: str | None = None) -> TowerOutput:
        """The same maps with the tower's embedding and a dense map; None takes the first of `dense_variants`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What a tower gives, block by block, shallow to deep."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    embedding_dim: int


class VitTower:
    """open_clip's own `VisionTransformer`: every map has the patch size as its stride.

    Dense map: the last block without residual and FFN, see `dense_attention`. Not with an attentional pooler (CoCa).
    """

    def __init__(self, visual: Any):
        self._visual = visual
        self._count = len(visual.transformer.resblocks)
        self.probe_px = 4 * max(visual.patch_size)
        self.obstacle = dense_attention.open_clip_obstacle(visual)
        self.dense_variants: tuple[str, ...] = () if self.obstacle else dense_attention.DENSE_VARIANTS

    def maps(self, x: Tensor, blocks: Sequence[int] | None) -> list[Tensor]:
        """Maps of the blocks, shallow to deep."""
        visual = self._at_size(x)
        options = {"stop_early": True, "intermediates_only": True}
        return visual.forward_intermediates(x, indices=_list(blocks), **options)["image_intermediates"]

    def aligned(self, x: Tensor, blocks: Sequence[int] | None, *, variant: str | None = None) -> TowerOutput:
        """Maps with the image embedding and, but for an attentional pooler, the dense map."""
        asked, read = _with_penultimate(blocks, self._count)
        visual = self._at_size(x)
        output = visual.forward_intermediates(x, indices=read, output_extra_tokens=True)
        maps = dict(zip(read, output["image_intermediates"], strict=True))
        dense = None
        if self.dense_variants:
            prefix = output["image_intermediates_prefix"][read.index(self._count - 2)]
            block = dense_attention.open_clip_block(visual)
            variant = variant or self.dense_variants[0]
            dense = dense_attention.dense_map(block, maps[self._count - 2], prefix, variant=variant)
        return TowerOutput(maps=[maps[b] for b in asked], embedding=output["image_features"], dense=dense)

    def _at_size(self, x: Tensor) -> Any:
        """The tower with position embeddings for the grid of `x`: a shallow copy that shares every other weight."""
        grid = (x.shape[-2] // self._visual.patch_size[0], x.shape[-1] // self._visual.patch_size[1])
        if grid == tuple(self._visual.grid_size):
            return self._visual
        positions = resample_positions(self._visual.positional_embedding, self._visual.grid_size, grid)
        return _with_part(self._visual, "_parameters", "positional_embedding", positions)


class ResNetTower:
    """OpenAI's `ModifiedResNet`: blocks 0 (stem) and 1 to 4 (layers); attention pooling makes the embedding.

    Dense map: the pool's value and output projections at every cell, as in MaskCLIP.

    Source: Zhou et al., "Extract Free Dense Labels from CLIP", arXiv 2112.01071, section 3.2.
    """

    dense_variants: tuple[str, ...] = ("values",)
    obstacle = ""
    probe_px = 64
    _last = 4

    def __init__(self, visual: Any):
        self._visual = visual
        side = round((visual.attnpool.positional_embedding.shape[0] - 1) ** 0.5)
        self._grid = (side, side)

    def maps(self, x: Tensor, blocks: Sequence[int] | None) -> list[Tensor]:
        """Maps of the blocks, shallow to deep."""
        # open_clip 3.3.0 has the test inverted here: stop_early=False is what leaves the later layers out. Either way
        # the maps are the same.
        options = {"stop_early": False, "intermediates_only": True}
        return self._visual.forward_intermediates(x, indices=_list(blocks), **options)["image_intermediates"]

    def aligned(self, x: Tensor, blocks: Sequence[int] | None, *, variant: str | None = None) -> TowerOutput:
        """Maps with the image embedding and the dense map."""
        asked = range(self._last + 1) if blocks is None else blocks
        read = sorted({*asked, self._last})
        maps = dict(zip(read, self.maps(x, read), strict=True))
        last = maps[self._last]
        pool = self._visual.attnpool
        values = F.linear(last.permute(0, 2, 3, 1), pool.v_proj.weight, pool.v_proj.bias)  # (B, h, w, C)
        dense = F.linear(values, pool.c_proj.weight, pool.c_proj.bias).permute(0, 3, 1, 2)  # (B, D, h, w)
        return TowerOutput(maps=[maps[b] for b in asked], embedding=self._pool_at(last)(last), dense=dense)

    def _pool_at(self, last: Tensor) -> Any:
        grid = (last.shape[-2], last.shape[-1])
        pool = self._visual.attnpool
        if grid == self._grid:
            return pool
        positions = resample_positions(pool.positional_embedding, self._grid, grid)
        return _with_part(pool, "_parameters", "positional_embedding", positions)


class TimmTower:
    """A timm trunk behind open_clip's `TimmModel`.

    Convolutional ones (ConvNeXt, FastViT of MobileCLIP, RepViT, FasterNet) and ViTs (SigLIP, EVA-02, PE-Core, ViTamin).
    Not those that are built for one size: Swin, relative positions.

    Dense map: where the tower pools by a global mean, its own head (norm, convolutions, projection) applied to every cell
    of the last features as if the cell were a 1x1 image. For ConvNeXt that is proj(norm(F4)) per location. Of a plain ViT
    (MobileCLIP-B, ViTamin) the last block as `dense_attention` reads it; not behind an attention pool (SigLIP).
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
        self.obstacle = "" if self._by_cell else dense_attention.timm_obstacle(visual)
        by_attention = () if self.obstacle else dense_attention.DENSE_VARIANTS
        self.dense_variants: tuple[str, ...] = ("projection",) if self._by_cell else by_attention

    def maps(self, x: Tensor, blocks: Sequence[int] | None) -> list[Tensor]:
        """Maps of the blocks, shallow to deep."""
        return self._at_size(x).forward_intermediates(
            x, indices=_list(blocks), stop_early=True, intermediates_only=True
        )

    def aligned(self, x: Tensor, blocks: Sequence[int] | None, *, variant: str | None = None) -> TowerOutput:
        """Maps with the image embedding and, where one is defined, the dense map."""
        if self.dense_variants and not self._by_cell:
            return self._aligned_vit(x, blocks, variant or self.dense_variants[0])
        features, maps = self._at_size(x).forward_intermediates(x, indices=_list(blocks))
        return TowerOutput(
            maps=maps,
            embedding=_head(self._visual, features),
            dense=self._head_per_cell(features) if self._by_cell else None,
        )

    def _aligned_vit(self, x: Tensor, blocks: Sequence[int] | None, variant: str) -> TowerOutput:
        count = len(self._trunk.blocks)
        asked, read = _with_penultimate(blocks, count)
        options = {"return_prefix_tokens": True, "output_dict": True}
        output = self._trunk.forward_intermediates(x, indices=read, **options)
        maps = dict(zip(read, output["image_intermediates"], strict=True))
        cells = maps[count - 2]
        prefixes = output.get("image_intermediates_prefix")  # not there without class token
        prefix = prefixes[read.index(count - 2)] if prefixes else cells.new_zeros(len(cells), 0, cells.shape[1])
        dense = dense_attention.dense_map(dense_attention.timm_block(self._visual), cells, prefix, variant=variant)
        embedding = _head(self._visual, output["image_features"])
        return TowerOutput(maps=[maps[b] for b in asked], embedding=embedding, dense=dense)

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
        return _with_part(self._trunk, "_modules", "rope", rope)

    def _head_per_cell(self, features: Tensor) -> Tensor:
        batch, channels, height, width = features.shape
        cells = features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)  # (B * h * w, C, 1, 1)
        return _head(self._visual, cells).reshape(batch, height, width, -1).permute(0, 3, 1, 2)  # (B, D, h, w)

    def _pools_by_mean(self) -> bool:
        """Whether the head reads a (B, C, h, w) map through the mean of its cells alone, tried on one made-up map."""
        if "pool" in self._visual.head._modules:
            return False  # open_clip's own attention pools
        weight = next(self._visual.parameters())
        features, _ = _small_run(lambda x: self._at_size(x).forward_intermediates(x, indices=1), self.probe_px, weight)
        if features.ndim != 4 or features.shape[1] != self._trunk.num_features:
            return False
        # of a tower without values (`describe_tower`), the head is tried with made-up ones on the CPU
        visual = _with_made_up_head(self._visual, features) if weight.is_meta else self._visual
        made_up = _waves((1, features.shape[1], 2, 3))
        made_up = made_up.to(device="cpu" if weight.is_meta else weight.device, dtype=weight.dtype)
        whole, mean = _head(visual, made_up), _head(visual, made_up.mean(dim=(2, 3), keepdim=True))
        return whole.ndim == 2 and torch.allclose(whole, mean, rtol=1e-3, atol=1e-4)


def find_tower(visual: nn.Module) -> Tower:
    """The family of an open_clip model's `visual`.

    Raises:
        BackboneError: No adapter for its class.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, VisionTransformer):
        return VitTower(visual)
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual)
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "forward_intermediates"):
        return TimmTower(visual)
    kind = type(getattr(visual, "trunk", visual)).__name__
    raise BackboneError(
        f"expected a ViT, a ModifiedResNet or a timm trunk with forward_intermediates, got {kind}: use another model"
    )


def probe(tower: Tower, weight: Tensor) -> Probe:
    """Runs one black image of the size `tower.probe_px`, of `weight`'s device and dtype, through the whole tower.

    Raises:
        BackboneError: The tower cannot read another size than its own, or its maps do not form a pyramid.
    """
    output = _small_run(lambda x: tower.aligned(x, None), tower.probe_px, weight)
    grids = [tuple(m.shape[-2:]) for m in output.maps]
    strides = tuple(tower.probe_px // side for side, _ in grids)
    square = all(grid == (tower.probe_px / s, tower.probe_px / s) for grid, s in zip(grids, strides, strict=True))
    if not square or list(strides) != sorted(strides):
        raise BackboneError(f"expected maps that never grow with depth, got grids {grids}: use another model")
    channels = tuple(m.shape[1] for m in output.maps)
    return Probe(channels=channels, strides=strides, embedding_dim=output.embedding.shape[-1])


def preset_blocks(strides: Sequence[int]) -> tuple[int, ...]:
    """Which blocks to read by default, given the stride of each, shallow to deep.

    A tower of one stride (a ViT): four blocks, evenly spaced, ending at the last. Otherwise the deepest block of every
    stride from 4 on: a stem of stride 2 costs memory and a codebook that no rate of interest can pay.

    Example:
        >>> preset_blocks([16] * 12), preset_blocks([2, 4, 4, 8, 16, 32])
        ((2, 5, 8, 11), (2, 3, 4, 5))
    """
    count = len(strides)
    if len(set(strides)) == 1:
        return tuple(sorted({max(0, (i + 1) * count // 4 - 1) for i in range(4)}))
    deepest = {stride: block for block, stride in enumerate(strides)}
    return tuple(block for stride, block in deepest.items() if stride >= min(4, strides[-1]))


def resample_positions(positions: Tensor, old_grid: Sequence[int], new_grid: Sequence[int]) -> Tensor:
    """Position embeddings (1 + h * w, C), class token first, for another grid: bicubic with antialias, in float32.

    Source: `resize_pos_embed` of open_clip's model.py, which does this when a checkpoint is loaded.
    """
    token, cells = positions[:1], positions[1:]
    cells = cells.float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # (1, C, h, w)
    cells = F.interpolate(cells, size=tuple(new_grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([token, cells.flatten(2)[0].T.to(positions.dtype)])


def _with_part(module: nn.Module, kind: str, name: str, value: Any) -> Any:
    """A shallow copy of `module` with one of its "_parameters" or "_modules" replaced.

    The original is untouched, so that threads may share it and no stored weight changes.
    """
    view = copy.copy(module)
    setattr(view, kind, {**getattr(module, kind), name: value})
    return view


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
    """A copy of a tower on the "meta" device, in which the modules that its head runs lie on the CPU."""
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


def _small_run(run: Callable[[Tensor], Output], side: int, weight: Tensor) -> Output:
    """What `run` gives for one black image (1, 3, side, side) of `weight`'s device and dtype."""
    x = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
    try:
        return run(x)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise BackboneError(
            f"expected a tower that reads images of any size, got {error} at {side} px: use another model"
        ) from error


def _with_penultimate(blocks: Sequence[int] | None, count: int) -> tuple[list[int], list[int]]:
    """The blocks that are asked for, all of them for None, and the same with the last but one, whose tokens the last reads."""
    asked = list(range(count) if blocks is None else blocks)
    return asked, sorted({*asked, max(0, count - 2)})


def _list(blocks: Sequence[int] | None) -> list[int] | None:
    return None if blocks is None else list(blocks)

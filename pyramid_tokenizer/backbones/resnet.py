"""OpenAI's ResNet with attention pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.reader import Chain, ReaderOutput, as_indices, resample_positions, stage_units
from pyramid_tokenizer.backbones.rows import Unit


class ResNetReader:
    """OpenAI's `ModifiedResNet`: blocks 0 (stem) and 1 to 4 (layers); attention pooling makes the embedding.

    Its dense features are the pool's value and output projections applied to every cell, as in MaskCLIP.

    Source: Zhou et al., "Extract Free Dense Labels from CLIP", arXiv 2112.01071, section 3.2.
    """

    dense_readings: tuple[str, ...] = ("values",)
    no_dense_reason = ""
    probe_px = 64
    _last = 4

    def __init__(self, visual: Any):
        self._visual = visual
        side = round((visual.attnpool.positional_embedding.shape[0] - 1) ** 0.5)
        self._grid = (side, side)
        self._made: tuple[Any, tuple[Tensor, Tensor]] | None = None

    def maps(self, x: Tensor, blocks: Sequence[int] | None) -> list[Tensor]:
        """Maps of the blocks, shallow to deep."""
        # open_clip 3.3.0 has the test inverted here: stop_early=False is what leaves the later layers out. Either way
        # the maps are the same.
        options = {"stop_early": False, "intermediates_only": True}
        return self._visual.forward_intermediates(x, indices=as_indices(blocks), **options)["image_intermediates"]

    def with_dense(self, x: Tensor, blocks: Sequence[int] | None, *, reading: str | None = None) -> ReaderOutput:
        """Maps with the image embedding and the dense features."""
        asked = range(self._last + 1) if blocks is None else blocks
        read = sorted({*asked, self._last})
        maps = dict(zip(read, self.maps(x, read), strict=True))
        return replace(self._finish(maps[self._last]), maps=[maps[b] for b in asked])

    def chain(self) -> Chain:
        """The stem and the residual blocks of the four layers."""
        visual = self._visual
        layers = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        later = [unit for block, layer in enumerate(layers, start=1) for unit in stage_units(layer, block)]
        return Chain(units=[Unit(run=visual.stem, block=0), *later], finish=self._finish)

    def _finish(self, last: Tensor) -> ReaderOutput:
        """Embedding and dense features of the last block's map."""
        dense = F.linear(last.permute(0, 2, 3, 1), *self._value_map()).permute(0, 3, 1, 2)  # (B, D, h, w)
        return ReaderOutput(maps=[], embedding=self._embed(last), dense=dense)

    def _value_map(self) -> tuple[Tensor, Tensor]:
        """Weight (D, C) and bias (D,) of value and output projection in one: a third of the cost of one after the other.

        It is made anew when one of the four tensors was replaced or changed, as a cast, a move and a copy of the backbone do.
        """
        pool = self._visual.attnpool
        tensors = (pool.v_proj.weight, pool.v_proj.bias, pool.c_proj.weight, pool.c_proj.bias)
        if torch.compiler.is_compiling():  # a graph keeps nothing between its runs
            return _joined(*tensors)
        # tensors made in inference mode count no changes, and cannot be changed outside it
        changes = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
        key = tuple((tensor.data_ptr(), tensor.dtype, tensor.device, *changes) for tensor in tensors)
        made = self._made
        if made is None or made[0] != key:
            made = self._made = (key, _joined(*tensors))
        return made[1]

    def _embed(self, last: Tensor) -> Tensor:
        """The attention pool's output, (B, D), of the last block's map.

        The pool attends from the mean of all cells alone. Its key projection is moved to the query and its value projection
        behind the weighted sum, which is the same but for rounding and leaves out what open_clip computes for each cell: of
        RN50 at 256 px, .95 billion products an image become .02 billion.
        """
        pool, heads = self._visual.attnpool, self._visual.attnpool.num_heads
        cells = last.flatten(2).transpose(1, 2)  # (B, h w, C)
        positions = self._positions((last.shape[-2], last.shape[-1])).to(last.dtype)
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], 1) + positions  # (B, 1 + h w, C)
        query = pool.q_proj(tokens[:, 0]).unflatten(1, (heads, -1))  # (B, heads, C / heads)
        by_head = [
            layer.weight.unflatten(0, (heads, -1)) for layer in (pool.k_proj, pool.v_proj)
        ]  # (heads, C / heads, C)
        # the bias of the keys adds the same to all weights of a head, which changes nothing
        wanted = torch.einsum("bhd,hdc->bhc", query * query.shape[2] ** -0.5, by_head[0])
        weights = (wanted @ tokens.transpose(1, 2)).softmax(2)  # (B, heads, 1 + h w)
        values = torch.einsum("bhc,hdc->bhd", weights @ tokens, by_head[1]).flatten(1) + pool.v_proj.bias
        return pool.c_proj(values)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """The pool's positions (1 + h w, C) for a grid of the last map."""
        stored = self._visual.attnpool.positional_embedding
        return stored if grid == self._grid else resample_positions(stored, self._grid, grid)


def _joined(inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of two linear maps in one, multiplied in float32, in the dtype of the first weight."""
    first, first_bias, second, second_bias = (
        tensor.detach().float() for tensor in (inner, inner_bias, outer, outer_bias)
    )
    weight, bias = second @ first, second @ first_bias + second_bias
    return weight.to(inner.dtype), bias.to(inner.dtype)

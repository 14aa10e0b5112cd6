"""open_clip's own vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyramid_tokenizer.backbones.dense import DENSE_READINGS, dense_features, open_clip_block, open_clip_no_dense_reason
from pyramid_tokenizer.backbones.reader import ReaderOutput, as_indices, resample_positions, with_part, with_penultimate


class VitReader:
    """open_clip's own `VisionTransformer`: every map has the patch size as its stride.

    Its dense features come from the last block without residual and FFN, see `dense.py`; with an attentional pooler (CoCa) there
    are none.
    """

    def __init__(self, visual: Any):
        self._visual = visual
        self._count = len(visual.transformer.resblocks)
        self.probe_px = 4 * max(visual.patch_size)
        self.no_dense_reason = open_clip_no_dense_reason(visual)
        self.dense_readings: tuple[str, ...] = () if self.no_dense_reason else DENSE_READINGS

    def maps(self, x: Tensor, blocks: Sequence[int] | None) -> list[Tensor]:
        """Maps of the blocks, shallow to deep."""
        visual = self._at_size(x)
        options = {"stop_early": True, "intermediates_only": True}
        return visual.forward_intermediates(x, indices=as_indices(blocks), **options)["image_intermediates"]

    def with_dense(self, x: Tensor, blocks: Sequence[int] | None, *, reading: str | None = None) -> ReaderOutput:
        """Maps with the image embedding and, where there are any, the dense features."""
        asked, read = with_penultimate(blocks, self._count)
        visual = self._at_size(x)
        output = visual.forward_intermediates(x, indices=read, output_extra_tokens=True)
        maps = dict(zip(read, output["image_intermediates"], strict=True))
        dense = None
        if self.dense_readings:
            prefix = output["image_intermediates_prefix"][read.index(self._count - 2)]
            block = open_clip_block(visual)
            reading = reading or self.dense_readings[0]
            dense = dense_features(block, maps[self._count - 2], prefix, reading=reading)
        return ReaderOutput(maps=[maps[b] for b in asked], embedding=output["image_features"], dense=dense)

    def _at_size(self, x: Tensor) -> Any:
        """The backbone with position embeddings for the grid of `x`: a shallow copy that shares every other weight."""
        grid = (x.shape[-2] // self._visual.patch_size[0], x.shape[-1] // self._visual.patch_size[1])
        if grid == tuple(self._visual.grid_size):
            return self._visual
        positions = resample_positions(self._visual.positional_embedding, self._visual.grid_size, grid)
        return with_part(self._visual, "_parameters", "positional_embedding", positions)

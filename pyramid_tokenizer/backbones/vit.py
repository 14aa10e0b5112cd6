"""open_clip's own vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyramid_tokenizer.backbones.dense import DENSE_READINGS, dense_features
from pyramid_tokenizer.backbones.last_block import open_clip_block, open_clip_has_plain_block
from pyramid_tokenizer.backbones.locations import PROJECTION, VALUES, apply_to_cells, open_clip_head
from pyramid_tokenizer.backbones.reader import ReaderOutput, as_indices, resample_positions, with_block, with_part


class VitReader:
    """open_clip's own `VisionTransformer`: every map has the patch size as its stride.

    Its dense features come from the last block without residual and FFN, see `dense.py`. Behind an attentional pooler (CoCa), and
    where the last block has other attention than the plain one, they are the head at every patch, see `locations.py`.
    """

    def __init__(self, visual: Any):
        self._visual = visual
        self._count = len(visual.transformer.resblocks)
        self.probe_px = 4 * max(visual.patch_size)
        self.dense_readings, self.no_dense_reason = open_clip_readings(visual)

    def maps(self, x: Tensor, blocks: Sequence[int] | None) -> list[Tensor]:
        """Maps of the blocks, shallow to deep."""
        visual = self._at_size(x)
        options = {"stop_early": True, "intermediates_only": True}
        return visual.forward_intermediates(x, indices=as_indices(blocks), **options)["image_intermediates"]

    def with_dense(self, x: Tensor, blocks: Sequence[int] | None, *, reading: str | None = None) -> ReaderOutput:
        """Maps with the image embedding and, where there are any, the dense features."""
        by_block = self.dense_readings == DENSE_READINGS
        source = self._count - (2 if by_block else 1)  # the last block reads the tokens of the one before
        asked, read = with_block(blocks, self._count, source)
        visual = self._at_size(x)
        output = visual.forward_intermediates(x, indices=read, output_extra_tokens=True)
        maps = dict(zip(read, output["image_intermediates"], strict=True))
        dense = None
        if by_block:
            prefix = output["image_intermediates_prefix"][read.index(source)]
            reading = reading or self.dense_readings[0]
            dense = dense_features(open_clip_block(visual), maps[source], prefix, reading=reading)
        elif self.dense_readings:
            dense = apply_to_cells(open_clip_head(visual), maps[source])
        return ReaderOutput(maps=[maps[b] for b in asked], embedding=output["image_features"], dense=dense)

    def chain(self) -> None:
        """None: every patch attends to all others."""

    def _at_size(self, x: Tensor) -> Any:
        """The backbone with position embeddings for the grid of `x`: a shallow copy that shares every other weight."""
        grid = (x.shape[-2] // self._visual.patch_size[0], x.shape[-1] // self._visual.patch_size[1])
        if grid == tuple(self._visual.grid_size):
            return self._visual
        positions = resample_positions(self._visual.positional_embedding, self._visual.grid_size, grid)
        return with_part(self._visual, "_parameters", "positional_embedding", positions)


def open_clip_readings(visual: Any) -> tuple[tuple[str, ...], str]:
    """The dense readings of an open_clip `VisionTransformer`, and why there are none: a clause that follows "whose", or ""."""
    if visual.attn_pool is None:
        return (DENSE_READINGS if open_clip_has_plain_block(visual) else PROJECTION), ""
    if visual.attn_pool_contrastive is not None:
        return (
            (),
            f"two attentional poolers ({visual.attn_pool_type}) give one vector per query and no single embedding",
        )
    return VALUES, ""

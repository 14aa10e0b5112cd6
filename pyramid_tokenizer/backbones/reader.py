"""The interface by which backbones of every family give maps, embedding and dense features at any image size.

All three kinds of open_clip's image networks have `forward_intermediates`, but a ViT and the ResNet's attention pool refuse
sizes other than their own, and open_clip's wrapper hides the features that a timm trunk's head reads. A reader holds the module
that it wraps and makes up for these differences without changing a weight; `probe` finds the shapes of its maps by running one
small image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_tokenizer.backbones.rows import Unit
from pyramid_tokenizer.errors import BackboneError

Output = TypeVar("Output")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderOutput:
    """Maps of the blocks that were asked for, shallow to deep, and the outputs of the whole backbone."""

    maps: list[Tensor]
    """(B, C, h, w) each."""
    embedding: Tensor
    """(B, D), as `visual(x)` gives it."""
    dense: Tensor | None
    """(B, D, h, w); None where the family has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """A backbone that is a chain of units, each reading the map before it, and a head that reads the last map."""

    units: Sequence[Unit]
    """From the pixels to the last block; the first one reads normalised pixels."""
    finish: Callable[[Tensor], ReaderOutput]
    """Embedding and dense features, by the default reading, of the last block's map (B, C, h, w); `maps` is empty."""


class MapReader(Protocol):
    """One family of backbones. `x` is (B, 3, H, W), normalised; `blocks` are indices, None for all."""

    dense_readings: tuple[str, ...]
    """Names of its dense readings, the default first; () where it has no dense features."""
    no_dense_reason: str
    """Why it has no dense features, a clause that follows "whose"; "" where it has them."""
    probe_px: int
    """Side of a small square image that the backbone can read."""

    def maps(self, x: Tensor, blocks: Sequence[int] | None) -> list[Tensor]:
        """Maps of the blocks, shallow to deep; blocks behind the last one do not run."""
        ...

    def with_dense(self, x: Tensor, blocks: Sequence[int] | None, *, reading: str | None = None) -> ReaderOutput:
        """The same maps with embedding and dense features; None takes the first of `dense_readings`."""
        ...

    def chain(self) -> Chain | None:
        """What seems to be the backbone's units, which `by_rows.measure_reaches` verifies; None where they are no chain."""
        ...


def resample_positions(positions: Tensor, old_grid: Sequence[int], new_grid: Sequence[int]) -> Tensor:
    """Position embeddings (1 + h * w, C), class token first, for another grid: bicubic with antialias, in float32.

    Source: `resize_pos_embed` of open_clip's model.py, which does this when a checkpoint is loaded.
    """
    token, cells = positions[:1], positions[1:]
    cells = cells.float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # (1, C, h, w)
    cells = F.interpolate(cells, size=tuple(new_grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([token, cells.flatten(2)[0].T.to(positions.dtype)])


def with_part(module: nn.Module, kind: str, name: str, value: Any) -> Any:
    """A shallow copy of `module` with one of its "_parameters" or "_modules" replaced.

    The original is untouched, so that threads may share it and no stored weight changes.
    """
    view = object.__new__(type(module))
    for key, kept in vars(module).items():  # not copy.copy, which torch's compiler does not follow
        object.__setattr__(view, key, kept)
    object.__setattr__(view, kind, {**getattr(module, kind), name: value})
    return view


def run_small(run: Callable[[Tensor], Output], side: int, weight: Tensor) -> Output:
    """What `run` gives for one black image (1, 3, side, side) of `weight`'s device and dtype."""
    x = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
    try:
        return run(x)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise BackboneError(
            f"expected a backbone that reads images of any size, got {error} at {side} px: use another model"
        ) from error


def with_block(blocks: Sequence[int] | None, count: int, block: int) -> tuple[list[int], list[int]]:
    """The blocks that are asked for, all `count` of them for None, and the same with `block`, in increasing order."""
    asked = list(range(count) if blocks is None else blocks)
    return asked, sorted({*asked, block})


def as_indices(blocks: Sequence[int] | None) -> list[int] | None:
    """The blocks as the list that open_clip and timm take; None, which means all blocks, stays None."""
    return None if blocks is None else list(blocks)


def stage_units(stage: nn.Module, block: int) -> list[Unit]:
    """The parts of a stage that is a downsampling and blocks one after the other, or the stage as one unit.

    Args:
        stage: Of a convolutional network.
        block: The index of the block whose map the stage gives.
    """
    children = dict(stage.named_children())
    if isinstance(stage, nn.Sequential):
        parts = list(stage)
    elif set(children) == {"downsample", "blocks"} and isinstance(children["blocks"], nn.Sequential):
        parts = [children["downsample"], *children["blocks"]]
    else:
        parts = [stage]
    parts = [part for part in parts if not isinstance(part, nn.Identity)] or [stage]
    return [*(Unit(run=part) for part in parts[:-1]), Unit(run=parts[-1], block=block)]

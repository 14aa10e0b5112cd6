"""Says why decoded pixels are NaN or infinite."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyramid_tokenizer.checks.finite import require_finite
from pyramid_tokenizer.errors import CheckpointError


def explain_pixels(images: Tensor, trunk: nn.Module, pixel_decoder: nn.Module, *, weights_advice: str) -> None:
    """Raises the CheckpointError for NaN or infinite pixels; it names the weight or the precision that made them.

    Args:
        images: Decoded images, some of whose numbers are NaN or infinite.
        trunk: The trunk that took part.
        pixel_decoder: The pixel decoder that took part.
        weights_advice: What to do where a weight is not finite.
    """
    for what, part in (("trunk", trunk), ("pixel decoder", pixel_decoder)):
        require_finite(part.state_dict(), stage=f"the {what}", advice=weights_advice, error=CheckpointError)
    _refuse({"pixels": images}, "decoded images", pixel_decoder)


def explain_maps(maps: Sequence[Tensor], trunk: nn.Module, *, weights_advice: str) -> None:
    """As `explain_pixels`, for the trunk's maps, one per level."""
    require_finite(trunk.state_dict(), stage="the trunk", advice=weights_advice, error=CheckpointError)
    _refuse({f"level {index}": level for index, level in enumerate(maps)}, "the trunk's maps", trunk)


def _refuse(tensors: dict[str, Tensor], stage: str, part: nn.Module) -> None:
    dtype = next(part.parameters()).dtype
    advice = f"all weights are finite, but {dtype} is too narrow for this decoder; use float32 or bfloat16"
    require_finite(tensors, stage=stage, advice=advice, error=CheckpointError)

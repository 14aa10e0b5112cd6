"""What of a quantizer determines the ids of given features: the part of the fingerprint that is its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyramid_tokenizer.quantizer.pyramid import PyramidQuantizer


def identity_of(quantizer: PyramidQuantizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and the tensors that determine ids, and no others; the tokenizer hashes them.

    Text read-outs never determine ids. A pixel read-out does where finer levels read the linear reconstruction.

    Args:
        quantizer: Any.

    Returns:
        JSON-ready values by name, and tensors by name.
    """
    facts: dict[str, Any] = {"composition": quantizer.composition.name, "levels": []}
    tensors: dict[str, Tensor] = {}
    for index, read in enumerate(quantizer.reads):
        level = quantizer.level(index)
        kind = {"learned": level.kind.learned, "unit_norm": level.kind.unit_norm}
        facts["levels"].append(
            {"stride": read.stride, "maps": list(read.maps), "reads_dense": read.reads_dense, **kind}
        )
        used = {"mean": level.mean, "std": level.std, "codebook": level.codebook}
        used |= {"adapter.weight": level.adapter.weight, "adapter.bias": level.adapter.bias}
        if quantizer.composition.reads_pixels and index + 1 < len(quantizer.levels):
            used |= {
                "pixel_readout.weight": level.pixel_readout.weight,
                "pixel_readout.bias": level.pixel_readout.bias,
            }
        tensors |= {f"levels.{index}.{name}": tensor for name, tensor in used.items()}
    tensors |= {f"image.{name}": tensor for name, tensor in quantizer.image.named_buffers()}
    return facts, tensors

"""`torch.export` programs of the parts of a tokenizer, for one image size or for all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pyramid_tokenizer.errors import ExportError
from pyramid_tokenizer.export.folding import fold_constants
from pyramid_tokenizer.export.graphs import DecodeGraph, EmbedGraph, EncodeGraph
from pyramid_tokenizer.tokenizer import PyramidTokenizer

PARTS = ("encode", "decode", "embed")
"""The parts that are exported, one file each."""

MOST_IMAGES = 4096
"""The largest batch that a program takes."""

MOST_CELLS = 4096
"""The most cells of level 0 that a side may have in a program for all sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """One part, and what is needed to record it."""

    part: str
    """One of `PARTS`."""
    graph: nn.Module
    """Takes `example`."""
    example: tuple[Any, ...]
    """Inputs of a batch of two images."""
    dims: tuple[Any, ...]
    """What may vary in them, as `torch.export.export` takes it."""
    inputs: tuple[str, ...]
    """Names of the inputs in ONNX."""
    outputs: tuple[str, ...]
    """Names of the outputs in ONNX."""


def plan_recording(tok: PyramidTokenizer, part: str, size: tuple[int, int] | None) -> Recording:
    """What is recorded for a part.

    Args:
        tok: A tokenizer in float32 on the CPU.
        part: One of `PARTS`.
        size: (H, W) in pixels, multiples of the tokenizer's `multiple_px`; None for all sizes.
    """
    quantizer, step = tok.quantizer, tok.multiple_px
    count = quantizer.base_levels if part == "embed" else len(quantizer.levels)
    # sides that differ, so that nothing is recorded as equal that is not
    height, width = size or (2 * step, 3 * step)
    batch, rows, columns = Dim("batch", min=1, max=MOST_IMAGES), *(_side(name, size) for name in ("rows", "columns"))
    names = tuple(f"ids_{level}" for level in range(count))
    image_tokens = len(quantizer.image.codebook_sizes) if part != "decode" else 0
    names += ("image_ids",) if image_tokens else ()
    if part == "encode":
        images = torch.linspace(0, 1, 6 * height * width).view(2, 3, height, width)
        dims = _vary(batch, rows, columns, first=2, steps=step)
        return Recording(
            part=part, graph=EncodeGraph(tok), example=(images,), dims=(dims,), inputs=("images",), outputs=names
        )
    strides = quantizer.strides[:count]
    ids = tuple(torch.zeros(2, height // s, width // s, dtype=torch.int64) for s in strides)
    dims = tuple(_vary(batch, rows, columns, first=1, steps=strides[0] // stride) for stride in strides)
    if image_tokens:
        ids, dims = (*ids, torch.zeros(2, image_tokens, dtype=torch.int64)), (*dims, {0: batch})
    graph, output = (DecodeGraph(tok), "images") if part == "decode" else (EmbedGraph(tok), "embedding")
    return Recording(part=part, graph=graph, example=(ids,), dims=(dims,), inputs=names, outputs=(output,))


def record(recording: Recording) -> ExportedProgram:
    """The program of a part, with its constants folded.

    Raises:
        ExportError: The part's graph holds for one size alone, and all sizes were asked for; or torch cannot record it.
    """
    try:
        program = _export(recording.graph, recording.example, recording.dims)
        return _export(fold_constants(program), recording.example, recording.dims)
    except Exception as error:  # torch.export raises many classes, most of them private
        reason = str(error).strip().split("\n")[0]
        fix = "give a size in pixels where all sizes were asked for, because some backbones have a graph for each size"
        raise ExportError(
            f"expected a graph of {recording.part}, got {type(error).__name__} from torch.export: {reason}; {fix}"
        ) from error


def _export(module: nn.Module, example: tuple[Any, ...], dims: tuple[Any, ...]) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns about its own future
        return torch.export.export(module, example, dynamic_shapes=dims, strict=False)


def _side(name: str, size: Sequence[int] | None) -> Any:
    return Dim(name, min=1, max=MOST_CELLS) if size is None else None


def _vary(batch: Any, rows: Any, columns: Any, *, first: int, steps: int) -> dict[int, Any]:
    """What varies in a tensor: the batch and, where `rows` is a dimension, two axes from `first` on in whole `steps`."""
    if rows is None:
        return {0: batch}
    return {0: batch, first: steps * rows if steps > 1 else rows, first + 1: steps * columns if steps > 1 else columns}


def run_program(program: ExportedProgram, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What a program gives for its inputs, in one list."""
    takes_images = len(inputs) == 1 and inputs[0].is_floating_point()
    with torch.no_grad():
        found = program.module(check_guards=False)(inputs[0] if takes_images else tuple(inputs))
    return [found] if isinstance(found, Tensor) else list(found)

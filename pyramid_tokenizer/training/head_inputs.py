"""What a segmentation head reads of images, in training: their pyramids as they are, or thinned beside the full ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyramid_tokenizer.quantizer.nearest import gather_rows
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.splits import Presence
from pyramid_tokenizer.training.thinning import draw_masks


class CellInputs(NamedTuple):
    """What the head and its trunk read."""

    codes: list[Tensor]
    """(B, d_l, h_l, w_l) per level."""
    lookup: Tensor
    """(B, D, h, w): the text embedding of every cell of the finest grid."""
    present: Presence = ()
    """Masks of sparse levels."""


def cell_inputs(tok: PyramidTokenizer, images: Tensor, *, continuous: bool = False) -> CellInputs:
    """What the head reads of images: their full pyramids.

    Args:
        tok: A fitted tokenizer.
        images: (B, 3, H, W) in [0, 1], sides in multiples of `tok.multiple_px`.
        continuous: Whether to take projections before quantisation, and their text embeddings, in place of codes.
    """
    quantizer = tok.quantizer
    if continuous:
        maps = list(quantizer.encode_continuous(tok.features(images)))
        return CellInputs(codes=maps, lookup=quantizer.summed_text_embeddings(maps))
    return _inputs_of(tok, quantizer.encode(tok.features(images)))


def training_inputs(
    tok: PyramidTokenizer, images: Tensor, *, continuous: bool = False, thinning: float = 0.0
) -> tuple[CellInputs, CellInputs | None]:
    """What the head reads in a step, and the same of the full pyramids where it is thinned, else None.

    Args:
        tok: A fitted tokenizer.
        images: As `cell_inputs` takes them.
        continuous: As `cell_inputs` takes it; projections are never thinned.
        thinning: How often the pyramids of a batch are thinned at random, as `TrainConfig.thinning`.
    """
    if continuous:
        return cell_inputs(tok, images, continuous=True), None
    ids = tok.quantizer.encode(tok.features(images))
    full = _inputs_of(tok, ids)
    if len(ids) == 1 or float(torch.rand(())) >= thinning:
        return full, None
    return _inputs_of(tok, ids, draw_masks(tok.quantizer, ids, images)), full


def _inputs_of(tok: PyramidTokenizer, ids: Sequence[Tensor], present: Presence = ()) -> CellInputs:
    """Codes and text embeddings of ids, those of absent cells left out."""
    rows = gather_rows(tok.quantizer.weighted_text_embeddings(), ids, present)
    return CellInputs(codes=list(tok.quantizer.codes(ids, present)), lookup=rows, present=present)

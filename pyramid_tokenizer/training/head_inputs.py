"""What a segmentation head reads of images, in training: their pyramids as they are, or thinned beside the full ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.backbones.features import FeaturePyramid
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
    image: Tensor
    """(B, D): the image embeddings, rows of unit norm."""
    present: Presence = ()
    """Masks of sparse levels."""


def cell_inputs(tok: PyramidTokenizer, images: Tensor, *, continuous: bool = False) -> CellInputs:
    """What the head reads of images: their full pyramids.

    Args:
        tok: A fitted tokenizer.
        images: (B, 3, H, W) in [0, 1], sides in multiples of `tok.multiple_px`.
        continuous: Whether to take projections before quantisation, and their text embeddings, in place of codes.
    """
    features = tok.features(images)
    if continuous:
        return _continuous_inputs(tok, features)
    return _inputs_of(tok, tok.quantizer.encode(features), tok.quantizer.encode_image(features))


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
    features = tok.features(images)
    ids, image_ids = tok.quantizer.encode(features), tok.quantizer.encode_image(features)
    full = _inputs_of(tok, ids, image_ids)
    if len(ids) == 1 or float(torch.rand(())) >= thinning:
        return full, None
    return _inputs_of(tok, ids, image_ids, draw_masks(tok.quantizer, ids, images)), full


def _continuous_inputs(tok: PyramidTokenizer, features: FeaturePyramid) -> CellInputs:
    """Projections, their text embeddings, and the backbone's own image embedding where image tokens stand for it."""
    quantizer = tok.quantizer
    maps = list(quantizer.encode_continuous(features))
    lookup = quantizer.summed_text_embeddings(maps)
    whole = features.embedding if quantizer.image.codebook_sizes else None
    if whole is None:
        whole = quantizer.to_embedding(lookup.mean((2, 3)))
    return CellInputs(codes=maps, lookup=lookup, image=F.normalize(whole, dim=1))


def _inputs_of(
    tok: PyramidTokenizer, ids: Sequence[Tensor], image_ids: Tensor | None, present: Presence = ()
) -> CellInputs:
    """Codes and embeddings of ids, those of absent cells left out."""
    image = tok.quantizer.embedding(ids, present, image_ids=image_ids)
    rows = gather_rows(tok.quantizer.weighted_text_embeddings(), ids, present)
    return CellInputs(codes=list(tok.quantizer.codes(ids, present)), lookup=rows, image=image, present=present)
